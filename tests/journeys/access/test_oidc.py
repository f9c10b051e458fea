"""OpenID Connect: tokens that a running issuer has signed say who calls, and no others do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.testclient import TestClient

from petiole.events.errors import UsageError
from petiole.tasks.testing import EventTestHarness
from petiole.workers.console import create_console
from petiole.workers.gateways import oidc
from petiole.workers.gateways.application import create_application
from tests.journeys.access.surfaces import ADMIN
from tests.support.errors import has_code

STRANGER = ("203.0.113.9", 50_000)


@dataclass
class Issuer:
    """A process that serves its discovery document and its keys; the tests sign with them."""

    folder: Path
    url: str
    process: subprocess.Popen[str]
    keys: dict[str, Any] = field(default_factory=dict)

    def publish(self, **changed: object) -> None:
        """Write both documents."""
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | changed
        (self.folder / ".well-known").mkdir(exist_ok=True)
        (self.folder / ".well-known" / "openid-configuration").write_text(json.dumps(document))
        jwks = [describe(kid, key.public_key()) for kid, key in self.keys.items()]
        (self.folder / "keys").write_text(json.dumps({"keys": jwks}))

    def sign(self, kid: str = "one", algorithm: str = "ES256", key: Any = None, **changed: Any) -> str:
        """Sign a token that is valid but for what is changed; a claim that is None is left out."""
        claims = {"iss": self.url, "aud": "petiole", "sub": "ada", "exp": time.time() + 300} | changed
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, key or self.keys[kid], algorithm, headers={"kid": kid})

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def describe(kid: str, key: Any) -> dict[str, Any]:
    algorithm: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePublicKey) else RSAAlgorithm
    return {**json.loads(algorithm.to_jwk(key)), "kid": kid, "use": "sig"}


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split(" port ")[1].split()[0]
        issuer = Issuer(tmp_path, f"http://127.0.0.1:{port}", process)
        issuer.keys["one"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish()
        yield issuer
        issuer.stop()


@pytest.fixture
def status(team: EventTestHarness, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Send a token to the gateways; gives the status of a read of Ada's stream, and the reason."""
    configure(monkeypatch, issuer.url)
    monkeypatch.setattr(oidc, "UNKNOWN_KEY_INTERVAL_S", 0)
    application = create_application(team.bus)
    client = TestClient(application, base_url="http://localhost", client=STRANGER)

    def send(token: str, path: str = "/ag-ui/threads/of-ada/runs/none") -> tuple[int, str]:
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, answer.json()["detail"]

    written = {"Authorization": f"Bearer {issuer.sign()}"}
    assert client.post("/streams/of-ada/messages", json={"text": "x"}, headers=written).status_code == 202
    return send


def configure(monkeypatch: pytest.MonkeyPatch, issuer: str, **settings: str) -> None:
    for name, value in {"issuer": issuer, "audience": "petiole", **settings}.items():
        monkeypatch.setenv(f"PETIOLE_OIDC_{name.upper()}", value)


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def with_body(issuer: Issuer, body: bytes) -> str:
    head, _, signature = issuer.sign().split(".")
    return f"{head}.{encode(body)}.{signature}"


def with_other_claims(issuer: Issuer) -> str:
    claims = {"iss": issuer.url, "aud": "petiole", "sub": "bob", "exp": time.time() + 300}
    return with_body(issuer, json.dumps(claims).encode())


def without_signature(issuer: Issuer) -> str:
    _, body, _ = issuer.sign().split(".")
    return f"{encode(json.dumps({'alg': 'none', 'kid': 'one'}).encode())}.{body}."


def with_public_key_as_secret(issuer: Issuer) -> str:
    # By hand: the library refuses to make such a token.

    secret = issuer.keys["one"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, body, _ = issuer.sign().split(".")
    signed = f"{encode(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{body}"
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


REFUSED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "has expired": (lambda issuer: issuer.sign(exp=time.time() - 60), "expired"),
    "is not valid yet": (lambda issuer: issuer.sign(nbf=time.time() + 300), "not yet valid"),
    "never expires": (lambda issuer: issuer.sign(exp=None), "exp"),
    "is for another audience": (lambda issuer: issuer.sign(aud="another"), "Audience"),
    "is for no audience": (lambda issuer: issuer.sign(aud=None), "aud"),
    "is of another issuer": (lambda issuer: issuer.sign(iss="https://evil.test"), "issuer"),
    "has no user": (lambda issuer: issuer.sign(sub=None), "'sub' is missing"),
    "has an empty user": (lambda issuer: issuer.sign(sub=""), "'sub' is missing"),
    "has a long user": (lambda issuer: issuer.sign(sub="x" * 256), "255"),
    "names an unknown key": (lambda issuer: issuer.sign("two", key=issuer.keys["one"]), "signing key"),
    "is signed by another key": (
        lambda issuer: issuer.sign(key=ec.generate_private_key(ec.SECP256R1())), "Signature",
    ),
    "is not signed": (without_signature, "alg"),
    "is signed with the public key as secret": (with_public_key_as_secret, "alg"),
    "has claims that were changed": (with_other_claims, "Signature"),
    "has a body of brackets": (lambda issuer: with_body(issuer, b"[" * 30_000), "Signature"),
}  # fmt: skip


def test_a_token_that_is_not_valid_opens_nothing_and_its_reason_is_told(issuer, status):
    told = {name: status(make(issuer)) for name, (make, _) in REFUSED.items()}

    assert {name: code for name, (code, _) in told.items()} == dict.fromkeys(REFUSED, 401)
    for name, (_, reason) in REFUSED.items():
        assert reason in told[name][1], (name, told[name])


def test_a_token_of_the_issuer_is_its_user_and_one_of_the_file_is_valid_beside_it(issuer, status):
    assert status(issuer.sign())[0] == 404
    assert status(issuer.sign(sub="bob"))[0] == 403
    assert status(issuer.sign(aud=["another", "petiole"]))[0] == 404
    assert status(ADMIN)[0] == 404
    assert status("wrong")[0] == 401
    assert status(encode(b"[" * 30_000) + ".e30.")[0] == 401


def test_a_key_that_the_issuer_has_rotated_is_read_and_the_old_one_is_no_longer_valid(issuer, status):
    assert status(issuer.sign())[0] == 404
    old = issuer.sign()
    issuer.keys = {"two": rsa.generate_private_key(public_exponent=65_537, key_size=2_048)}
    issuer.publish()

    assert status(issuer.sign("two", "RS256"))[0] == 404
    assert status(old)[0] == 401


def test_without_its_issuer_known_keys_stay_valid_and_others_are_asked_to_come_later(team, issuer, status):
    token = issuer.sign()
    issuer.stop()

    assert status(token)[0] == 404
    client = TestClient(create_application(team.bus), base_url="http://localhost", client=STRANGER)
    late = client.get("/ag-ui/threads/of-ada/runs/none", headers={"Authorization": f"Bearer {token}"})
    assert (late.status_code, late.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    "document",
    [{"issuer": "https://evil.test"}, {"jwks_uri": "http://evil.test/keys"}, {"jwks_uri": "file:///etc/keys"}],
)
def test_keys_are_read_only_where_the_issuer_says_and_nobody_can_change_them(team, issuer, monkeypatch, document):
    configure(monkeypatch, issuer.url)
    issuer.publish(**document)
    client = TestClient(create_application(team.bus), base_url="http://localhost", client=STRANGER)

    answer = client.get("/ag-ui/threads/t/runs/none", headers={"Authorization": f"Bearer {issuer.sign()}"})

    assert answer.status_code == 503


ROLES: dict[str, tuple[dict[str, Any], int]] = {
    "no claim": ({}, 403),
    "an unknown role": ({"groups": ["king"]}, 403),
    "a role": ({"groups": "viewer"}, 200),
    "the highest of roles": ({"groups": ["user", "operator", "viewer"]}, 200),
    "a role that is no text": ({"groups": [{"admin": True}]}, 403),
}


def test_the_role_of_a_token_opens_the_console(team, issuer, monkeypatch):
    configure(monkeypatch, issuer.url, role_claim="groups")
    client = TestClient(create_console(team.bus), base_url="http://localhost", client=STRANGER)

    def look(**claims: Any) -> int:
        return client.get("/catalog", headers={"Authorization": f"Bearer {issuer.sign(**claims)}"}).status_code

    assert {name: look(**claims) for name, (claims, _) in ROLES.items()} == {
        name: expected for name, (_, expected) in ROLES.items()
    }
    configure(monkeypatch, issuer.url, role_claim="realm_access.roles", user_claim="email")
    client = TestClient(create_console(team.bus), base_url="http://localhost", client=STRANGER)
    nested: dict[str, Any] = {"realm_access": {"roles": ["operator"]}, "email": "ada@example.org"}
    assert (look(**nested, email_verified=True), look(**nested)) == (200, 401)


def test_an_issuer_without_audience_or_without_https_is_refused_at_the_start(team, monkeypatch):
    monkeypatch.setenv("PETIOLE_OIDC_ISSUER", "https://login.example.org")
    with pytest.raises(UsageError, check=has_code("missing_setting"), match="PETIOLE_OIDC_AUDIENCE"):
        create_application(team.bus)

    monkeypatch.setenv("PETIOLE_OIDC_ISSUER", "http://login.example.org")
    with pytest.raises(UsageError, match="https://"):
        create_application(team.bus)
