"""Access control: the ASGI middleware in front of all gateways and of the console.

    application = AccessControl(application, create_authenticator(bus, None, trusts_loopback=False))
    scope["petiole.identity"]                the Identity of the caller, in every request that arrives

Refused before any gateway, WebSockets always with 403:

    503    more requests at the same time than the limits allow. A request counts until its answer has ended, so readers
           of events and WebSockets count as long as they are connected
    421    a Host that is not ours: with DNS rebinding, a page of another site reaches this server under its own name
    403    a change, or a WebSocket, that a page of another site sent, unless its origin is allowed
    401    a caller without an identity (authentication.py); a browser is sent to the page to sign in
    413    a body that is too large
    408    a body that does not arrive in time

A server outside must bound what never becomes a request, such as half-sent ones: workers/channels/http_server.py does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from petiole.tasks.transport.address import is_allowed_host
from petiole.workers.gateways.authentication import Authenticator
from petiole.workers.gateways.identities import IDENTITY
from petiole.workers.gateways.problems import RequestRefused, refuse, replay_body

_LIMITS: Final = "petiole.limits"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# "same-origin" and not "no-referrer": with the latter, browsers send `Origin: null` with our own forms.
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """The limits of requests.

    Attributes:
        connections: Most requests at the same time.
        connections_per_client: Most of one address.
        body_bytes: The largest body.
        body_timeout_s: How long a body may take to arrive.
        ping_s: The interval of comments that keep a reader of events connected.
        send_timeout_s: How long a reader of events may take to accept one.
    """

    connections: int = 200
    connections_per_client: int = 50
    body_bytes: int = 1_048_576
    body_timeout_s: float = 15.0
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


@dataclass(slots=True)
class ConnectionCount:
    """Counts the requests that are being answered, in all and by the client's address."""

    by_client: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """The number of requests that are being answered."""
        return self.by_client.total()

    @contextmanager
    def count(self, client: str) -> Iterator[None]:
        """Count a request of this client for the block."""
        self.by_client[client] += 1
        try:
            yield
        finally:
            self.by_client[client] -= 1
            if not self.by_client[client]:
                del self.by_client[client]


class AccessControl:
    """ASGI middleware that refuses what no gateway should see.

    Args:
        application: What is protected.
        authenticator: Finds out who calls.
        hosts: Names, besides localhost, under which clients may reach this server.
        origins: Origins of other servers whose pages may use this one, such as `http://localhost:3000`.
        limits: The limits of requests.
        public_paths: Prefixes of paths that need no identity, such as styles.
        sign_in_path: Where browsers without an identity are sent; requests to it need none.
    """

    def __init__(
        self,
        application: ASGIApp,
        authenticator: Authenticator,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        limits: AccessLimits | None = None,
        public_paths: tuple[str, ...] = (),
        sign_in_path: str | None = None,
    ) -> None:
        self.connections = ConnectionCount()
        self._application = application
        self._authenticator = authenticator
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._origins = frozenset(origins)
        self._limits = limits or AccessLimits()
        self._public_paths = public_paths
        self._sign_in_path = sign_in_path
        # Before authentication: a browser asks whether an origin is allowed without sending a token.
        self._with_cors: ASGIApp = self._authenticated
        if origins:
            self._with_cors = CORSMiddleware(
                self._authenticated, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        connection, send = HTTPConnection(scope), _with_headers(send)
        client = connection.client.host if connection.client else ""
        try:
            self._check_limits(client)
            self._check_host(connection)
        except RequestRefused as refusal:
            await refuse(refusal, scope, receive, send)
            return
        scope[_LIMITS] = self._limits
        with self.connections.count(client):
            await self._with_cors(scope, receive, send)

    async def _authenticated(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request if its origin may send it and its caller is known."""
        connection = HTTPConnection(scope)
        is_change = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        try:
            if is_change:
                self._check_origin(connection)
            scope[IDENTITY] = await self._authenticator.identify(connection)
            if scope[IDENTITY] is None and not self._is_public(scope):
                await self._ask_for_identity(connection, receive, send)
                return
            if is_change and scope["type"] == "http":
                receive = replay_body(await self._read_body(connection, receive), receive)
        except RequestRefused as refusal:
            await refuse(refusal, scope, receive, send)
            return
        await self._application(scope, receive, send)

    def _check_limits(self, client: str) -> None:
        """Refuse requests above the limits."""
        is_full = self.connections.open >= self._limits.connections
        if is_full or self.connections.by_client[client] >= self._limits.connections_per_client:
            reason = "too many clients are connected, or too many from one; try again later"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def _check_host(self, connection: HTTPConnection) -> None:
        """Refuse a name that is not ours."""
        if not is_allowed_host(connection.headers.get("host", ""), self._hosts):
            reason = "this Host is not served here; start the server with --allow-host NAME"
            raise RequestRefused(HTTPStatus.MISDIRECTED_REQUEST, reason)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another site sends, unless its origin is allowed."""
        origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
        if origin in self._origins:
            return
        is_foreign = origin is not None and _host_of(origin) != host.lower()
        if is_foreign or connection.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            reason = "a page of another site sent this request; start the server with --allow-origin URL to allow it"
            raise RequestRefused(HTTPStatus.FORBIDDEN, reason)

    def _is_public(self, scope: Scope) -> bool:
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        return path.startswith(self._public_paths) or path == self._sign_in_path

    async def _ask_for_identity(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        scope = connection.scope
        is_page = scope.get("method") == "GET" and "text/html" in connection.headers.get("accept", "")
        if self._sign_in_path is None or not is_page:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, "send a token: Authorization: Bearer TOKEN")
        response = RedirectResponse(scope.get("root_path", "") + self._sign_in_path, HTTPStatus.SEE_OTHER)
        await response(scope, receive, send)

    async def _read_body(self, connection: HTTPConnection, receive: Receive) -> bytes:
        limit, length = self._limits.body_bytes, connection.headers.get("content-length", "0")
        if len(length) > len(str(limit)) or (length.isdecimal() and int(length) > limit):
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body is incomplete; send all of it")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise _too_large(limit)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError as error:
            reason = f"the body did not arrive within {self._limits.body_timeout_s:g} s; send it again"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, reason) from error


def limits_of(scope: Scope) -> AccessLimits:
    """Return the limits that apply to a request."""
    limits: AccessLimits = scope.get(_LIMITS, AccessLimits())
    return limits


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _too_large(limit: int) -> RequestRefused:
    reason = f"the body has more than {limit} bytes; send less"
    return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)


def _with_headers(send: Send) -> Send:
    """Add the headers that every response has, unless it sets them itself."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
