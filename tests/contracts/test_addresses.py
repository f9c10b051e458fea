"""Events over every kind of address, over TLS, and over a server that Sentinel names: a real worker and a publisher.

The embedded server is built without TLS, so a proxy of the test's own ends it, as one does in front of many a server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, NotConfigured
from petiole.workers.process.embedded_broker import server_binary
from tests.support.apps import a_bus

EVENTS = 100

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent
from petiole.tasks.bus import default_bus

if os.environ.get("MASTER"):
    conf = default_bus.app.conf
    conf.broker_transport_options = conf.broker_transport_options | {"master_name": os.environ["MASTER"]}
seen = redis.Redis.from_url(os.environ["SEEN"])
agent = Agent("listener")

@agent.on("input.*")
def hear(event: Event) -> None:
    seen.rpush("seen", event.content.text)
"""

PUBLISH = f"""
import listener
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish, publish_many
from petiole.tasks.bus import default_bus

events = [TextMessageEvent(stream_id="s", content=TextContent(text=str(number))) for number in range({EVENTS})]
for event in events[:10]:
    publish(event)
publish_many(events[10:])
print(type(default_bus.app.connection_for_write().default_channel).__name__, default_bus.publishes_atomically)
"""


TLS_FRONT = """
import asyncio, ssl, sys
from contextlib import suppress
from pathlib import Path

certificate, port = Path(sys.argv[1]), int(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, certificate.with_name("key.pem"))

async def pass_on(reader, writer):
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()

async def serve(reader, writer):
    behind = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    Path("tls_port").write_text(f"{server.sockets[0].getsockname()[1]}\\n")
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def system(node, clean_broker_url):
    """Give a system whose handlers note what they hear; its broker's URL is set by the test."""
    node.module("listener", AGENT)
    node.environment.update(PETIOLE_AGENTS="listener", SEEN=clean_broker_url)
    return node


@pytest.fixture
def seen(clean_broker_url):
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    return lambda: sorted(map(int, client.lrange("seen", 0, -1)))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make a certificate for this host, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is missing: apt-get install openssl")
        pytest.skip("openssl is missing")
    path = tmp_path / "certificate.pem"
    told = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes")
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(tmp_path / "key.pem"))
    subprocess.run(
        [openssl, "req", "-x509", *made, *told, "-out", str(path)], check=True, capture_output=True, timeout=20
    )
    return path


@pytest.fixture
def tls_port(system, clean_broker_url, certificate, eventually) -> int:
    """Start the proxy; gives the port that it listens on."""
    system.module("tls_front", TLS_FRONT)
    system.start("tls_front", str(certificate), str(urlsplit(clean_broker_url).port))
    found = system.home / "tls_port"
    eventually(lambda: found.exists() and found.read_text().endswith("\n"), 20, system.logs)
    return int(found.read_text())


def test_events_are_carried_over_tls(  # noqa: PLR0917 - fixtures
    system, clean_broker_url, tls_port, certificate, seen, eventually
):
    password = urlsplit(clean_broker_url).password
    system.environment["PETIOLE_BROKER_URL"] = (
        f"rediss://:{password}@127.0.0.1:{tls_port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
    )
    system.worker("first")

    told = system.run(PUBLISH)

    eventually(lambda: seen() == list(range(EVENTS)), 20, lambda: (seen(), system.logs()[-3000:]))
    assert told.split() == ["Channel", "True"]


def test_a_server_whose_certificate_is_not_trusted_is_told_nothing(system, clean_broker_url, tls_port):
    password = urlsplit(clean_broker_url).password
    system.environment["PETIOLE_BROKER_URL"] = f"rediss://:{password}@127.0.0.1:{tls_port}/0?ssl_cert_reqs=required"

    with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
        system.run(PUBLISH)


@pytest.fixture
def sentinel_port(clean_broker_url, tmp_path, eventually) -> Iterator[int]:
    """Start a Sentinel that watches the server."""
    address = urlsplit(clean_broker_url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor events 127.0.0.1 {address.port} 1\nsentinel auth-pass events {address.password}\n"
    )
    with (tmp_path / "sentinel.out").open("wb") as log:
        process = subprocess.Popen(
            [server_binary(), str(tmp_path / "sentinel.conf"), "--sentinel"], stdout=log, stderr=log
        )

    def answers() -> bool:
        with suppress(redis.ConnectionError), redis.Redis(port=port) as client:
            return bool(client.ping())
        return False

    try:
        eventually(answers, 20, (tmp_path / "sentinel.out").read_text)
        yield port
    finally:
        process.kill()
        process.wait(timeout=10)


def test_events_are_carried_over_the_server_that_sentinel_names(
    system, clean_broker_url, sentinel_port, seen, eventually
):
    password = urlsplit(clean_broker_url).password
    system.environment.update(
        PETIOLE_BROKER_URL=f"sentinel://:{password}@127.0.0.1:{sentinel_port}/0",
        # What is remembered, and results, are not asked for by way of Sentinel.
        PETIOLE_STATE_URL=clean_broker_url,
        MASTER="events",
    )
    system.worker("first")

    told = system.run(PUBLISH)

    eventually(lambda: seen() == list(range(EVENTS)), 20, lambda: (seen(), system.logs()[-3000:]))
    assert told.split() == ["SentinelChannel", "False"]


@pytest.fixture
def plain_server(tmp_path, eventually) -> Iterator[int]:
    """Start a server without a password that listens on a socket file, IPv4 and IPv6; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ("--port", str(port), "--bind", "127.0.0.1", "-::1", "--unixsocket", str(tmp_path / "s"), "--save", "")
    with (tmp_path / "plain.out").open("wb") as log:
        process = subprocess.Popen([server_binary(), *options, "--dir", str(tmp_path)], stdout=log, stderr=log)
    try:
        eventually((tmp_path / "s").exists, 20, (tmp_path / "plain.out").read_text)
        yield port
    finally:
        process.kill()
        process.wait(timeout=10)


@pytest.mark.parametrize(
    "address",
    [
        "unix://{home}/s?db=1",
        pytest.param("valkey://127.0.0.1:{port}/1", marks=pytest.mark.long),
        pytest.param("redis://[::1]:{port}/1", marks=pytest.mark.long),
        pytest.param("redis://127.0.0.1:1/1;redis://127.0.0.1:{port}/1", marks=pytest.mark.long),
    ],
)
def test_events_are_carried_over_an_address(system, plain_server, address, seen, eventually, tmp_path):  # noqa: PLR0917 - fixtures
    if "::1" in address and not _has_ipv6():
        pytest.skip("this host has no IPv6")
    system.environment["PETIOLE_BROKER_URL"] = address.format(home=tmp_path, port=plain_server)
    if ";" in address:
        system.environment["PETIOLE_STATE_URL"] = f"valkey://127.0.0.1:{plain_server}/1"
    system.worker("first")

    system.run(PUBLISH)

    eventually(lambda: seen() == list(range(EVENTS)), 20, lambda: (seen(), system.logs()[-3000:]))


def test_a_worker_with_an_unescaped_password_ends_with_one_sentence_without_it(system):
    system.environment["PETIOLE_BROKER_URL"] = "redis://:s3cret/pw@127.0.0.1:1/0"

    worker = system.start("celery", "-A", "workers", "worker")

    assert worker.wait(timeout=60) != 0
    assert "its password has a character that is not escaped" in system.logs()
    assert not [part for part in ("s3cret", "pw@", "Traceback") if part in system.logs()]


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_a_database_that_the_server_does_not_have_is_refused_with_what_to_do(clean_broker_url):
    bus = a_bus(f"{clean_broker_url.rpartition('/')[0]}/99")

    with pytest.raises(BrokerUnavailable, match="DB index is out of range"):
        bus.publish(TextMessageEvent(stream_id="s", content=TextContent(text="hi")))
    with pytest.raises(NotConfigured, match="the server has no database of this number"):
        bus.check_configuration()
