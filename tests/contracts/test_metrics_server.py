"""The port of metrics and probes: slow clients hold neither threads nor probes, and pages of the web read nothing."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress

import pytest

from petiole.tasks.consuming.metrics_server import MetricsServer
from tests.support.apps import a_bus
from tests.support.processes import free_ports


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    server = MetricsServer(a_bus("memory://"))
    server.add_probe("/alive", lambda: None)
    server.start("127.0.0.1", port)
    return port


def ask(port: int, host: str) -> bytes:
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET /alive HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client.recv(100)
    return b""


def test_connections_that_never_end_their_request_are_few_and_short(port, eventually):
    threads = threading.active_count()
    with ExitStack() as connections:
        dripping = [connections.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)]
        for client in dripping:
            with suppress(OSError):
                client.sendall(b"GET /alive HTTP/1.1\r\n")

        def is_answered() -> bool:
            for client in dripping:
                with suppress(OSError):
                    client.sendall(b"X")
            return b"200 OK" in ask(port, "127.0.0.1")

        assert threading.active_count() <= threads + 16
        eventually(is_answered, 20)


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", b"421"), ("localhost:1", b"200"), ("127.0.0.1", b"200"), ("[::1]:9", b"200")]
)
def test_a_name_that_is_not_of_this_machine_is_refused(port, host, status):
    assert ask(port, host).split()[1] == status
