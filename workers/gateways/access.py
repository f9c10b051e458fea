"""Access to the gateways: hosts, origins, and the number of requests at the same time.

A request whose Host is a name other than `localhost` or one of `hosts` is refused with 421: with DNS rebinding, a page
of another site reaches this server under a name of its own. A request whose Origin is neither the server's own nor
allowed is refused with 403 unless it only reads.

Requests above the limits are answered with 503. A request counts until its answer has ended, so readers of events count
as long as they are connected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from petiole.workers.gateways.problems import problem

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits: requests in all and from one address, interval of comments, timeout of a silent client."""

    connections: int = 100
    per_client: int = 20
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


@dataclass(slots=True)
class ConnectionCount:
    """Counts the requests that are being answered, in all and by the client's address."""

    limits: ConnectionLimits = ConnectionLimits()
    by_client: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """The number of requests that are being answered."""
        return self.by_client.total()

    def is_full(self, client: str) -> bool:
        """Return whether no further request of this client is served."""
        return self.open >= self.limits.connections or self.by_client[client] >= self.limits.per_client

    @contextmanager
    def count(self, client: str) -> Iterator[None]:
        """Count a request of this client for the block."""
        self.by_client[client] += 1
        try:
            yield
        finally:
            self.by_client.subtract((client,))
            if not self.by_client[client]:
                del self.by_client[client]


class AccessControl:
    """ASGI middleware that refuses hosts and origins that are not allowed, and requests above the limits."""

    def __init__(
        self, app: ASGIApp, *, connections: ConnectionCount, hosts: Collection[str], origins: Collection[str]
    ) -> None:
        self._app = app
        self._connections = connections
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        headers = Headers(scope=scope)
        if not is_allowed_host(headers.get("host", ""), self._hosts):
            response = problem(HTTPStatus.MISDIRECTED_REQUEST, "this Host is not served here; see --allow-host")
        elif scope["method"] not in _READING and not self._is_allowed_origin(headers):
            response = problem(HTTPStatus.FORBIDDEN, "pages of this Origin may not send requests; see --allow-origin")
        elif self._connections.is_full(client):
            reason = "too many clients are connected, or too many from one; try again later"
            response = problem(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        else:
            scope["petiole.limits"] = self._connections.limits
            with self._connections.count(client):
                await self._app(scope, receive, send)
            return
        await response(scope, receive, send)

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """Return whether a request comes from no page, from a page of this server, or from an allowed origin."""
        origin = headers.get("origin")
        return origin is None or origin in self._origins or urlsplit(origin).netloc == headers.get("host")


def limits_of(scope: Scope) -> ConnectionLimits:
    """Return the limits that apply to a request."""
    limits: ConnectionLimits = scope.get("petiole.limits", ConnectionLimits())
    return limits


def is_allowed_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header is an IP address, which DNS cannot rebind, or one of these names."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(host)
    except ValueError:
        return "@" not in header and host.rstrip(".") in names
    return True
