"""HTTP server of `petiole serve` and `petiole console`: uvicorn, with limits for clients that are slow or silent.

A connection without a complete request is closed after REQUEST_TIMEOUT_S. A client, by its address, has at most
MAX_WAITING_CONNECTIONS of them. A connection whose client reads nothing of its answer for SEND_TIMEOUT_S is closed.
uvicorn limits none of them. Connections whose request is being answered do not count: the application limits them
(workers/gateways/access.py). Needs the extra `sse`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from typing import Any, ClassVar, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 30.0
MAX_WAITING_CONNECTIONS: Final = 20


def build_server(application: Any, *, shutdown_timeout_s: int = 3) -> uvicorn.Server:
    """Build a server for an ASGI application."""
    configuration = uvicorn.Config(
        application,
        http=LimitedProtocol,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )
    return uvicorn.Server(configuration)


class LimitedProtocol(H11Protocol):
    """Closes connections that send no complete request in time, and those above the limit of a client."""

    _waiting: ClassVar[Counter[str]] = Counter()
    _client = ""
    _deadline: asyncio.TimerHandle | None = None
    _send_deadline: asyncio.TimerHandle | None = None
    _is_handed_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for a request, or refuse the connection."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if peer else ""
        if self._waiting[self._client] >= MAX_WAITING_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; between two requests of a connection, wait anew."""
        super().data_received(data)
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None and not self._is_handed_over and not self.transport.is_closing():
            self._wait_for_request()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over: it has sent its request, and its endpoint limits what follows."""
        self._stop_waiting()
        self._is_handed_over = True
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """Wait until the client reads."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        self._stop_sending()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def _wait_for_reader(self, unread: float = inf) -> None:
        """Close the connection unless its client reads something each SEND_TIMEOUT_S."""
        left = self.transport.get_write_buffer_size()
        if left < unread:
            self._send_deadline = self.loop.call_later(SEND_TIMEOUT_S, self._wait_for_reader, left)
        else:
            self.transport.abort()

    def _stop_sending(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _wait_for_request(self) -> None:
        self._waiting[self._client] += 1
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is None:
            return
        self._deadline.cancel()
        self._deadline = None
        self._waiting[self._client] -= 1
        if not self._waiting[self._client]:
            del self._waiting[self._client]
