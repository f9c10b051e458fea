"""MetricsServer: a worker serves `/metrics` for Prometheus, and its probes, if PETIOLE_METRICS_PORT is set.

The figures are those of the whole system and the same at each worker. The worker's job writes the page every
PAGE_INTERVAL_S; the server's threads only send it. So they hold no lock and no connection when a prefork worker forks.
A page that was not renewed in time is not sent: the answer is 503. Probes (probes.py) read this process's memory.

A connection ends after _REQUEST_TIMEOUT_S; the server has at most _MAX_CONNECTIONS. At a loopback address the Host of a
request is an IP address, `localhost` or PETIOLE_METRICS_HOST, so no page of another site reads it by rebinding DNS.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

from petiole.events.errors import UsageError
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.transport.address import is_allowed_host

PAGE_INTERVAL_S = 5.0
_MAX_PAGE_AGE_S = 15.0
_REQUEST_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 16


class MetricsServer:
    """The page, and the server that sends it."""

    def __init__(self, _: BusRuntime) -> None:
        self._page, self._written_at = b"", float("-inf")
        self._server: ThreadingHTTPServer | None = None
        self._probes: dict[str, list[Callable[[], str | None]]] = {}

    def add_probe(self, path: str, find_problem: Callable[[], str | None]) -> None:
        """Serve a probe: 200, or 503 with the first problem that one of the path's functions returns."""
        self._probes.setdefault(path, []).append(find_problem)

    def answer(self, path: str) -> tuple[HTTPStatus, bytes]:
        """Return the status and the page of a path."""
        if path == "/metrics":
            page = self._read()
            too_old = b"the worker could not read its figures; see its log\n"
            return (HTTPStatus.OK, page) if page is not None else (HTTPStatus.SERVICE_UNAVAILABLE, too_old)
        if path not in self._probes:
            return HTTPStatus.NOT_FOUND, f"the paths are {', '.join(['/metrics', *self._probes])}\n".encode()
        name = path.removeprefix("/")
        problem = next((found for find in self._probes[path] if (found := find()) is not None), None)
        if problem is None:
            return HTTPStatus.OK, f"{name}\n".encode()
        return HTTPStatus.SERVICE_UNAVAILABLE, f"not {name}: {problem}\n".encode()

    def write(self, page: str) -> None:
        """Replace the page."""
        self._page, self._written_at = page.encode(), time.monotonic()

    def _read(self) -> bytes | None:
        return self._page if time.monotonic() - self._written_at <= _MAX_PAGE_AGE_S else None

    def start(self, host: str, port: int) -> None:
        """Start to serve, if that has not happened. Raises UsageError if the address cannot be used."""
        if self._server is not None:
            return
        try:
            self._server = _Server((host, port), _build_handler(self, host.lower()))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(
                f"PETIOLE_METRICS_PORT: cannot listen at {host}:{port} ({reason}); another worker of this machine may "
                "serve there, which shows the same figures, or choose another port"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="petiole-metrics", daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._accepted_at: dict[Any, float] = {}
        super().__init__(*args)

    def verify_request(self, *_: Any) -> bool:
        return len(self._accepted_at) < _MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._accepted_at[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._accepted_at.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End old connections; called every half second. A timeout of the socket begins anew with each byte."""
        for request, accepted_at in list(self._accepted_at.items()):
            if time.monotonic() - accepted_at > _REQUEST_TIMEOUT_S:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error other than that of a connection that has ended."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _build_handler(server: MetricsServer, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, address = self.headers.get("Host", ""), ip_address(self.request.getsockname()[0])
            if name and address.is_loopback and not is_allowed_host(name, {"localhost", host}):
                self._send(HTTPStatus.MISDIRECTED_REQUEST, b"this Host is not served here; use an IP address\n")
                return
            self._send(*server.answer(self.path.partition("?")[0]))

        def log_message(self, *_: Any) -> None:
            """Log no request."""

        def _send(self, status: HTTPStatus, page: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    return Handler


def _serve_metrics(bus: BusRuntime, _: object) -> None:
    if (port := bus.settings.metrics_port) is None:
        return
    # Loaded only by a worker that serves metrics.
    from petiole.tasks.operations.prometheus import render_metrics

    server = bus.resource(MetricsServer)
    server.start(bus.settings.metrics_host, port)
    server.write(render_metrics(bus))


SERVE_METRICS = PeriodicJob("serve_metrics", PAGE_INTERVAL_S, _serve_metrics)
