"""A receiver of webhooks, and a server of answers."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from petiole.tasks import EventBus
from petiole.workers.channels.http_server import build_server
from petiole.workers.gateways.access import AccessLimits, ConnectionCount
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.tokens import Identity

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@dataclass
class Receiver:
    """An HTTP server, what it got, and how it answers: each status in turn, the last for ever."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(204, {})])
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    is_slow: bool = False


def a_handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.is_slow:
                receiver.is_over.wait(30)
            status, headers = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    return Handler


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests want."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive posts in a thread."""
    receiver = Receiver()
    server = QuietServer(("127.0.0.1", 0), a_handler(receiver))
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Served:
    """A server that runs in a thread."""

    url: str
    port: int
    gate: ConnectionCount

    def read(
        self, count: int, *, stream_id: str = "s", last: str | None = None, of: str = "events"
    ) -> list[tuple[str, dict[str, str]]]:
        """Read so many events as a browser would: each one's id, and its data."""
        headers = {} if last is None else {"Last-Event-ID": last}
        found: list[tuple[str, dict[str, str]]] = []
        entry_id = ""
        with httpx2.stream("GET", f"{self.url}/streams/{stream_id}/{of}", headers=headers, timeout=10) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    entry_id = value
                elif name == "data":
                    found.append((entry_id, json.loads(value)))
                if len(found) == count:
                    break
        return found


@contextmanager
def served(bus: EventBus, limits: AccessLimits | None = None, *, hosts: Sequence[str] = ()) -> Iterator[Served]:
    application = create_application(bus, authenticate=as_admin, limits=limits, hosts=hosts)
    with serving(application) as url:
        yield Served(url, int(url.rpartition(":")[2]), application.connections)


async def as_admin(_: HTTPConnection) -> Identity:
    """Let everybody be an admin, also under other names and behind proxies."""
    return Identity("anybody", "admin")


@contextmanager
def serving(application: ASGIApp) -> Iterator[str]:
    """Serve an application in a thread; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    server = build_server(application, shutdown_timeout_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
