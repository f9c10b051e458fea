"""Identities: the middleware of all gateways. It finds out who calls, and refuses what no gateway should see.

    application = IdentityMiddleware(application, tokens=TokenFile(path))
    scope["petiole.identity"]                the Identity of the caller, in every request that arrives

Who calls, in this order:

    local        a caller on this machine that reaches the gateway on loopback is its admin (`trusts_loopback`)
    own          `authenticate(connection)` of the user, such as a check of an OpenID Connect token
    token        `Authorization: Bearer TOKEN` of the token file, or the cookie of a browser that signed in with one

A caller counts as local only if no header says that a proxy forwarded the request, and if it used the name `localhost`
or a loopback address: a proxy on this machine must not make the whole world local.

Refused before any gateway: a Host that is not ours (421: with DNS rebinding a page of another site reaches a server
under its own name), a change that another site's page sent (403), a body that is too large (413) or too slow (408),
more requests at once than the limits allow (503), and callers without an identity (401, or the page to sign in).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from petiole.tasks.operations.operator import current_operator
from petiole.workers.gateways.access import is_allowed_host
from petiole.workers.gateways.tokens import Identity, TokenFile
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from petiole.tasks.runtime import BusRuntime

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate: TypeAlias = "Callable[[HTTPConnection], Awaitable[Identity | None]]"

IDENTITY: Final = "petiole.identity"
"""The key of the caller's Identity in an ASGI scope."""

SESSION_COOKIE: Final = "petiole_session"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDING_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
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
class RequestLimits:
    """Largest body, longest time for it to arrive, and most requests at once: in all, and of one address."""

    body_bytes: int = 1_048_576
    body_timeout_s: float = 15.0
    requests: int = 200
    requests_per_client: int = 50


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    reason: str


class IdentityMiddleware:
    """ASGI middleware: who calls, and the checks that all gateways share.

    Args:
        application: what is protected.
        tokens: the token file; None if there is only `authenticate`.
        authenticate: returns who calls, or None; asked before the token file.
        trusts_loopback: whether callers on this machine need no token.
        hosts: names, besides localhost, under which clients may reach this server.
        limits: of requests.
        sign_in_path: where browsers without an identity are sent; requests to it need none.
        public_path: prefix of paths that need no identity, such as styles.
    """

    def __init__(
        self,
        application: Application,
        *,
        tokens: TokenFile | None = None,
        authenticate: Authenticate | None = None,
        trusts_loopback: bool = False,
        hosts: Collection[str] = (),
        limits: RequestLimits | None = None,
        sign_in_path: str | None = None,
        public_path: str | None = None,
    ) -> None:
        self._application = application
        self._tokens = tokens
        self._authenticate = authenticate
        self._trusts_loopback = trusts_loopback
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._limits = limits or RequestLimits()
        self._sign_in_path = sign_in_path
        self._public_path = public_path
        self._requests: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from starlette.requests import HTTPConnection  # noqa: PLC0415 - an extra

        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":  # no gateway speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        connection = HTTPConnection(scope)
        client = connection.client.host if connection.client else ""
        send = _with_headers(send)
        if (
            self._requests.total() >= self._limits.requests
            or self._requests[client] >= self._limits.requests_per_client
        ):
            await _refuse(_Refusal(503, "too many requests at once; try again"), scope, receive, send)
            return
        self._requests[client] += 1
        try:
            await self._serve(connection, scope, receive, send)
        finally:
            self._requests[client] -= 1
            if not self._requests[client]:
                del self._requests[client]

    async def _serve(self, connection: HTTPConnection, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal := self._check_origin(connection, scope["method"]):
            await _refuse(refusal, scope, receive, send)
            return
        scope[IDENTITY] = await self._identify(connection)
        if scope[IDENTITY] is None and not self._is_public(scope):
            await self._ask_for_identity(connection, scope, receive, send)
            return
        body = await self._read_body(connection, receive) if scope["method"] not in _SAFE_METHODS else None
        if isinstance(body, _Refusal):
            await _refuse(body, scope, receive, send)
            return
        await self._application(scope, receive if body is None else _replay(body, receive), send)

    def _check_origin(self, connection: HTTPConnection, method: str) -> _Refusal | None:
        """Refuse a name that is not ours, and a change that a page of another site sent."""
        host = connection.headers.get("host", "")
        if not is_allowed_host(host, self._hosts):
            return _Refusal(421, "this Host is not served here; start the server with --allow-host NAME")
        if method in _SAFE_METHODS:
            return None
        origin = connection.headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if is_foreign or connection.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return _Refusal(403, "a page of another site sent this request; send it from a page of this server")
        return None

    async def _identify(self, connection: HTTPConnection) -> Identity | None:
        if self._trusts_loopback and _is_local(connection):
            return Identity(WorkerSettings().operator or current_operator(), "admin")
        if self._authenticate is not None and (found := await self._authenticate(connection)) is not None:
            return found
        if self._tokens is None:
            return None
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.find(token.strip())
        cookie = connection.cookies.get(SESSION_COOKIE)
        return self._tokens.find_session(cookie) if cookie else None

    def _is_public(self, scope: Scope) -> bool:
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        is_public = self._public_path is not None and path.startswith(self._public_path)
        return is_public or (self._sign_in_path is not None and path == self._sign_in_path)

    async def _ask_for_identity(self, connection: HTTPConnection, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import RedirectResponse  # noqa: PLC0415 - an extra

        is_page = scope["method"] == "GET" and "text/html" in connection.headers.get("accept", "")
        if self._sign_in_path is not None and is_page:
            await RedirectResponse(scope.get("root_path", "") + self._sign_in_path, 303)(scope, receive, send)
            return
        await _refuse(_Refusal(401, "send a token: Authorization: Bearer TOKEN"), scope, receive, send)

    async def _read_body(self, connection: HTTPConnection, receive: Receive) -> bytes | _Refusal:
        limit = self._limits.body_bytes
        too_large = _Refusal(413, f"the body is larger than {limit:,} bytes; send a smaller one")
        length = connection.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            return too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > limit:
                        return too_large
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            return _Refusal(408, f"the body did not arrive within {self._limits.body_timeout_s:g} s; send it again")


def may_use_stream(bus: BusRuntime, identity: Identity | None, stream_id: str, *, is_write: bool = False) -> bool:
    """Return whether a caller may read a stream, or publish into it.

    A stream belongs to the users of its session, or to the user of its first event. Others cannot read it, whatever
    their role but `admin`. A stream without events belongs to nobody: anybody may begin it, and nobody may read it
    before. Without an identity the gateway has no authentication, and all may.
    """
    if identity is None or identity.role == "admin":
        return True
    owners = _owners(bus, stream_id)
    if identity.user_id is None:
        return False
    return identity.user_id in owners if owners else is_write


def _owners(bus: BusRuntime, stream_id: str) -> set[str | None]:
    with bus.state_store_access("reading whose stream it is"):
        session = bus.stores.sessions.get(stream_id)
        users: set[str | None] = {each.id for each in session.participants if each.role == "user"} if session else set()
        if users:
            return users
        first = next(iter(bus.stores.history.read_stream(stream_id)), None)
    context = first.attributes.get("context") if first else None
    user_id = context.get("user_id") if isinstance(context, Mapping) else None
    return {user_id} if first else set()


def _is_local(connection: HTTPConnection) -> bool:
    if any(name in connection.headers for name in _FORWARDING_HEADERS) or connection.client is None:
        return False
    try:
        name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        is_loopback_name = name == "localhost" or ip_address(name).is_loopback
        return is_loopback_name and ip_address(connection.client.host).is_loopback
    except ValueError:
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that was read; after it, what the client sends next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _with_headers(send: Send) -> Send:
    """Add the headers that every response has, unless it sets them itself."""
    from starlette.datastructures import MutableHeaders  # noqa: PLC0415 - an extra

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


async def _refuse(refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - an extra

    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}.get(refusal.status)
    await PlainTextResponse(refusal.reason + "\n", refusal.status, headers)(scope, receive, send)
