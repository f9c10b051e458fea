"""OpenID Connect: callers by bearer tokens that an issuer has signed. Needs the extra `oidc`.

    PETIOLE_OIDC_ISSUER=https://login.example.org      its discovery document names its keys
    PETIOLE_OIDC_AUDIENCE=petiole                      tokens for others are refused

The keys are read when the first token arrives, and again after KEYS_RETENTION_S or when a token names an unknown key,
so an issuer may rotate its keys. A token is refused if it has expired, if it is of another issuer or for another
audience, or if it is not signed by a key pair of the issuer: shared secrets and `none` are no signatures here.

Source: OpenID Connect Core 1.0, section 3.1.3.7; OpenID Connect Discovery 1.0; RFC 7519.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import HTTPConnection

from petiole.events.errors import UsageError, missing_extra
from petiole.events.texts import error_text
from petiole.workers.gateways.identities import bearer_token
from petiole.workers.gateways.problems import RequestRefused
from petiole.workers.gateways.tokens import ROLES, Identity, Role
from petiole.workers.settings import WorkerSettings

try:
    import jwt
    from jwt.exceptions import PyJWKClientConnectionError
except ModuleNotFoundError as error:
    raise missing_extra("OpenID Connect", "oidc") from error

KEYS_RETENTION_S: Final = 300.0
"""How long keys are kept before they are read again; so long a key that the issuer has withdrawn is accepted."""

UNKNOWN_KEY_INTERVAL_S: Final = 10.0
"""Tokens with unknown keys make the keys be read at most this often."""

_ISSUER_TIMEOUT_S = 5
_VERIFICATION_TIMEOUT_S = 12.0
_CLOCK_SKEW_S = 30
_MAX_USER_LENGTH = 255
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

log = logging.getLogger(__name__)


def create_oidc_verifier(settings: WorkerSettings) -> OidcVerifier:
    """Create the verifier of the settings. Raises UsageError (missing_setting)."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        reason = "PETIOLE_OIDC_AUDIENCE is missing; set it to the audience of this server's tokens"
        raise UsageError(reason, code="missing_setting")
    return OidcVerifier(
        settings.oidc_issuer,
        settings.oidc_audience,
        user_claim=settings.oidc_user_claim,
        role_claim=settings.oidc_role_claim,
    )


@dataclass(slots=True)
class OidcVerifier:
    """Returns who calls by the token of an issuer. An Authenticate.

    Args:
        issuer: The issuer, as in its tokens.
        audience: The audience that a token must have.
        user_claim: The claim with the user; an `email` counts only if the issuer has verified it.
        role_claim: The claim with a role or a list of roles, also nested: `realm_access.roles`. Values that are no role
            do not count; without a role the caller is a `user`.
    """

    issuer: str
    audience: str
    user_claim: str = "sub"
    role_claim: str | None = None
    _keys: jwt.PyJWKClient | None = None
    # One thread: an issuer that does not answer must not take the threads that serve callers with other tokens.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="oidc"))

    async def __call__(self, connection: HTTPConnection) -> Identity | None:
        """Return who calls; None without a signed token. Raises RequestRefused for one that is not valid."""
        token = bearer_token(connection)
        if token is None or not _is_signed_token(token):
            return None
        try:
            async with asyncio.timeout(_VERIFICATION_TIMEOUT_S):
                claims = await asyncio.get_running_loop().run_in_executor(self._thread, self._verify, token)
        except (PyJWKClientConnectionError, TimeoutError, ValueError) as error:
            log.warning("oidc.issuer_unavailable", extra={"issuer": self.issuer, "error": error_text(error)})
            reason = "the keys of the issuer cannot be read now; send the request again later"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason) from error
        except (jwt.PyJWTError, RecursionError) as error:
            raise _invalid_token(error_text(error)) from error
        return Identity(self._user(claims), self._role(claims), self._user(claims))

    def _verify(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a valid token. Raises PyJWTError, PyJWKClientConnectionError, ValueError (no JSON)."""
        if self._keys is None:
            self._keys = self._discover()
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self._keys.get_signing_key(jwt.get_unverified_header(token).get("kid", "")),
            algorithms=_ALGORITHMS,
            audience=self.audience,
            issuer=self.issuer,
            leeway=_CLOCK_SKEW_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims

    def _discover(self) -> jwt.PyJWKClient:
        """Find the address of the issuer's keys."""
        address = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        document = jwt.PyJWKClient(address, cache_jwk_set=False, timeout=_ISSUER_TIMEOUT_S).fetch_data()
        keys = document.get("jwks_uri")
        # Whoever can change the keys on their way here can sign every token.
        is_safe = isinstance(keys, str) and keys.startswith(("https:", self.issuer))
        if document.get("issuer") != self.issuer or not is_safe:
            reason = f"{address} is not the document of {self.issuer!r}, or names no https:// address of its keys"
            raise PyJWKClientConnectionError(reason)
        return jwt.PyJWKClient(
            keys, lifespan=KEYS_RETENTION_S, cooldown_duration=UNKNOWN_KEY_INTERVAL_S, timeout=_ISSUER_TIMEOUT_S
        )

    def _user(self, claims: Mapping[str, Any]) -> str:
        user = claims.get(self.user_claim)
        if not isinstance(user, str) or not 0 < len(user) <= _MAX_USER_LENGTH:
            raise _invalid_token(f"the claim {self.user_claim!r} is missing, or no text of 1 to 255 characters")
        if self.user_claim == "email" and claims.get("email_verified") is not True:
            raise _invalid_token("the issuer has not verified the email")
        return user

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """Return the highest role of a token."""
        found = _read_claim(claims, self.role_claim) if self.role_claim else None
        given = found if isinstance(found, list) else [found]
        return max((role for role in ROLES if role in given), key=ROLES.index, default="user")


def _is_signed_token(token: str) -> bool:
    """Return whether a token is a JSON Web Token; tokens of the token file are not."""
    try:
        jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, RecursionError):
        return False
    return True


def _read_claim(claims: Mapping[str, Any], name: str) -> object:
    """Return a claim by its name, which may contain dots, or by its path."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _invalid_token(reason: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.UNAUTHORIZED, f"the token is not valid ({reason}); get a new one from its issuer")
