"""Services of docker-compose.yml, with the secrets, the users and the policy that it gives them, over TLS."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.inside import COMMANDS_ON_KEYS_OF_OTHERS
from tests.support.processes import ROOT, Node, free_ports

FILES = ROOT / "docs" / "operations" / "compose"

ADMINISTRATION = [
    "FLUSHALL",
    "SHUTDOWN",
    "CONFIG SET maxmemory 1",
    "ACL LIST",
    "MODULE LIST",
    "REPLICAOF h 1",
    "KEYS *",
    "CLIENT KILL TYPE normal",
    "SCRIPT FLUSH",
]

PUBLISH = """
from petiole import publish
from petiole.events import TextContent, TextMessageEvent
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="I like tea")))
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="I like tea, " * 10_000)))
"""


def make_secrets(folder: Path, *options: str) -> Path:
    script = ["sh", str(FILES / "make-secrets.sh"), *options]
    subprocess.run(script, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder / "secrets"


class TlsServer:
    """Ends TLS with the broker's certificate in front of the tests' server, whose build has none."""

    def __init__(self, target: tuple[str, int], folder: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "broker.crt", folder / "broker.key")
        self._listener = socket.create_server(("127.0.0.1", free_ports(1)[0]), backlog=50)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        try:
            client = self._context.wrap_socket(accepted, server_side=True)
            server = socket.create_connection(self._target)
        except OSError:
            accepted.close()
            return
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        _copy(client, server)

    def close(self) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(65_536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.close()


@dataclass(frozen=True)
class Composition:
    """The server with the users of the compose file, and what each service gets."""

    secrets: Path
    plain: str
    tls: str

    def settings(self, service: str) -> dict[str, str]:
        (line,) = (self.secrets / f"{service}.env").read_text().splitlines()
        address = line.removeprefix("PETIOLE_BROKER_URL=").replace("/run/secrets", str(self.secrets))
        keys = self.secrets / ("service-keys.toml" if service == "service" else "signing-keys.toml")
        return {
            "PETIOLE_BROKER_URL": address.replace("@valkey:6379", f"@{self.tls}"),
            "PETIOLE_POLICY": str(FILES / "policy.toml"),
            "PETIOLE_SIGNING_KEYS": str(keys),
        }

    def connect(self, service: str) -> redis.Redis:
        """Connect without TLS: what a user may do is the same."""
        address = self.settings(service)["PETIOLE_BROKER_URL"].partition("?")[0]
        return redis.Redis.from_url(address.replace("rediss:", "redis:").replace(self.tls, self.plain))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_secrets(tmp_path_factory.mktemp("compose"))
    (folder / "signing-keys.toml").chmod(0o600)  # no container keeps others out here
    return folder


@pytest.fixture
def composition(clean_broker_url: str, secrets: Path) -> Iterator[Composition]:
    parts = urlsplit(clean_broker_url)
    assert parts.hostname
    assert parts.port
    proxy = TlsServer((parts.hostname, parts.port), secrets)
    users = [line.split()[1:] for line in (secrets / "users.acl").read_text().splitlines()]
    with redis.Redis.from_url(clean_broker_url) as admin:
        for name, *rules in users[1:]:  # the tests need the default user
            admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
        admin.execute_command("ACL", "LOG", "RESET")
        yield Composition(secrets, f"{parts.hostname}:{parts.port}", f"127.0.0.1:{proxy.port}")
        admin.execute_command("ACL", "DELUSER", *(name for name, *_ in users[1:]))
    proxy.close()


def test_services_work_as_their_own_users_over_tls_and_sign_what_they_say(
    node: Node, composition, client, inside, eventually
):
    for service in ("publish", "memory"):
        node.environment.update(composition.settings(service))
        node.worker(service, "-Q", service)
    node.environment.update(composition.settings("service"))

    node.run(PUBLISH)
    eventually(lambda: len(inside.remembered("s")) == 2 and inside.is_idle("memory", "publish"), 60, node.logs)

    assert client.acl_log() == [], node.logs()
    assert inside.dead_letters() == []
    assert [each["publisher"] for each in inside.history("input.message.received")] == ["service"] * 2
    assert all(each["signature"] for each in inside.history())


@pytest.mark.timeout(600)
def test_a_whole_conversation_needs_no_right_that_a_service_has_not(
    node: Node, composition, client, inside, eventually
):
    for service in ("publish", "orchestrator", "memory", "tools", "llm", "output", "proactive"):
        node.environment.update(composition.settings(service))
        node.worker(service, "-Q", service)
    node.environment.update(composition.settings("service"))

    node.run(PUBLISH.replace("I like tea", "What is 12 * 7?"))
    eventually(lambda: inside.topics().count("output.message.sent") == 2, 300, node.logs)

    assert client.acl_log() == [], node.logs()
    assert inside.dead_letters() == []
    said = {each["publisher"] for each in inside.history()}
    assert said >= {"service", "orchestrator", "memory", "llm", "output"}


def test_a_user_of_the_compose_file_reaches_nothing_of_another_service(composition):
    for service, commands in COMMANDS_ON_KEYS_OF_OTHERS.items():
        with composition.connect(service) as user:
            assert user.ping()
            for command in commands:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*command.split())


@pytest.mark.parametrize("service", ["operator", "tools", "service"])
def test_no_user_of_the_compose_file_administers_the_broker(composition, service):
    with composition.connect(service) as user:
        for command in ADMINISTRATION:
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command.split())


def test_a_broker_with_a_foreign_certificate_gets_no_password(composition, tmp_path):
    settings = composition.settings("operator")
    foreign = make_secrets(tmp_path) / "ca.crt"
    address = re.sub(r"ssl_ca_certs=.*", f"ssl_ca_certs={foreign}", settings["PETIOLE_BROKER_URL"])

    with redis.Redis.from_url(address) as user, pytest.raises(redis.exceptions.ConnectionError, match="certificate"):
        user.ping()


def test_making_the_secrets_again_changes_none_and_another_certificate_has_the_same_authority(secrets):
    def read() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in secrets.iterdir()}

    before = read()
    for arguments in ([], ["--renew"]):
        make_secrets(secrets.parent, *arguments)
        changed = {name for name, content in read().items() if content != before.get(name)}
        assert changed <= ({"broker.crt", "broker.key"} if arguments else set())

    assert secrets.stat().st_mode & 0o777 == 0o700
    check = ["openssl", "verify", "-CAfile", secrets / "ca.crt", secrets / "broker.crt"]
    assert subprocess.run(check, check=True, capture_output=True, timeout=60).stdout.strip().endswith(b"OK")
