"""Authentication: who calls a gateway.

In this order:

    local        a caller on this machine that reaches the gateway on loopback is its admin (`trusts_loopback`)
    own          `authenticate(connection)` of the user, such as a check of the session of another application
    OIDC         `Authorization: Bearer TOKEN` that the issuer PETIOLE_OIDC_ISSUER has signed (oidc.py)
    token        `Authorization: Bearer TOKEN` of the token file, or the cookie of a browser that signed in with one

A caller counts as local only if no header says that a proxy forwarded the request, and if it used the name `localhost`
or a loopback address: a proxy on this machine must not make the whole world local.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from petiole.events.errors import UsageError
from petiole.events.texts import error_text
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.identities import SESSION_COOKIE, Authenticate, bearer_token
from petiole.workers.gateways.problems import RequestRefused
from petiole.workers.gateways.tokens import TOKEN_FILE, Identity, TokenFile
from petiole.workers.settings import WorkerSettings

_FORWARDING_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Finds out who calls.

    Attributes:
        tokens: The token file.
        methods: Asked in this order before the token file; each returns who calls, or None.
        trusts_loopback: Whether callers on this machine need no token.
    """

    tokens: TokenFile
    methods: tuple[Authenticate, ...] = ()
    trusts_loopback: bool = False

    async def identify(self, connection: HTTPConnection) -> Identity | None:
        """Return who calls; None for a stranger. Raises RequestRefused for a token that is not valid."""
        if self.trusts_loopback and _is_local(connection):
            return Identity(WorkerSettings().operator or current_operator(), "admin")
        for method in self.methods:
            if (found := await method(connection)) is not None:
                return found
        try:
            return self._find_token(connection)
        except UsageError as error:  # the file was changed since the start
            log.error("access.tokens_unusable", extra={"error": error_text(error)})  # noqa: TRY400 - the error says it all
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "the tokens cannot be read now; try again") from error

    def _find_token(self, connection: HTTPConnection) -> Identity | None:
        if (token := bearer_token(connection)) is not None:
            return self.tokens.find(token)
        cookie = connection.cookies.get(SESSION_COOKIE)
        return self.tokens.find_session(cookie) if cookie else None


def create_authenticator(bus: BusRuntime, authenticate: Authenticate | None, *, trusts_loopback: bool) -> Authenticator:
    """Create the authenticator of a bus: the user's own method, the issuer of the settings, and the token file.

    Raises: UsageError (unusable_token_file, missing_extra, missing_setting).
    """
    methods = [authenticate] if authenticate is not None else []
    if WorkerSettings().oidc_issuer is not None:
        from petiole.workers.gateways.oidc import create_oidc_verifier  # noqa: PLC0415 - an extra

        methods.append(create_oidc_verifier(WorkerSettings()))
    tokens = TokenFile(bus.settings.home / TOKEN_FILE)
    return Authenticator(tokens, tuple(methods), trusts_loopback=trusts_loopback)


def _is_local(connection: HTTPConnection) -> bool:
    if any(name in connection.headers for name in _FORWARDING_HEADERS) or connection.client is None:
        return False
    try:
        name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        is_loopback_name = name == "localhost" or ip_address(name).is_loopback
        return is_loopback_name and ip_address(connection.client.host).is_loopback
    except ValueError:
        return False
