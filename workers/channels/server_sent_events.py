"""Server-sent events: an HTTP server for browsers, with delivered answers and answers that are being written.

    GET /streams/{stream_id}/events     delivered answers: `message`, {"message_id", "text"}
    GET /streams/{stream_id}/text       answers that are being written: `started`, `delta`, `finished` …, each
                                        {"answer_id", "attempt", "text"}

The id of an event is its position in the stream. A client that reconnects sends the last id as `Last-Event-ID`
(browsers do so automatically) and continues after it; without the header it starts with the oldest stored event.

The server sends a comment every `ping_s` to keep idle connections open. It closes a connection whose client reads
nothing for `send_timeout_s`. It answers 503 while `connections` clients are connected, or `per_client` from one
address.

A request whose Host is a name other than `localhost` or one of `hosts` is refused with 421: with DNS rebinding, a
page of another site reaches this server under a name of its own.

Source: HTML Living Standard, section 9.2, Server-sent events.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable, missing_extra
from petiole.events.texts import error_text

if TYPE_CHECKING:
    from starlette.applications import Starlette

_RETRY_AFTER_S: Final = 5
_MAX_STREAM_ID_LENGTH: Final = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a response: position, name and data."""

    position: str
    name: str
    data: Mapping[str, str | int]


EventSource: TypeAlias = Callable[[str, str | None], AsyncIterator[ServerSentEvent]]
"""Yields the events of a stream after a position (None: all), and waits for more.

Raises BrokerUnavailable, StateStoreUnavailable.
"""


class AnswerStreams(Protocol):
    """The answers of all streams."""

    def messages(self, stream_id: str, position: str | None, /) -> AsyncIterator[ServerSentEvent]:
        """Read the delivered answers. An EventSource."""
        ...

    def chunks(self, stream_id: str, position: str | None, /) -> AsyncIterator[ServerSentEvent]:
        """Read the answers that are being written. An EventSource."""
        ...

    async def aclose(self) -> None:
        """Close all connections to the store."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits: connections in all and from one address, interval of comments, timeout of a silent client."""

    connections: int = 100
    per_client: int = 20
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


@dataclass(slots=True)
class ConnectionCount:
    """Counts the open connections, in all and by the client's address."""

    limits: ConnectionLimits
    by_client: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """The number of open connections."""
        return self.by_client.total()

    def is_full(self, client: str) -> bool:
        """Return whether no further connection of this client is served."""
        return self.open >= self.limits.connections or self.by_client[client] >= self.limits.per_client

    @contextmanager
    def count(self, client: str) -> Iterator[None]:
        """Count a connection of this client for the block."""
        self.by_client[client] += 1
        try:
            yield
        finally:
            self.by_client.subtract((client,))
            if not self.by_client[client]:
                del self.by_client[client]


def check_extra() -> None:
    """Raise UsageError (missing_extra) if a package of the extra `sse` is missing."""
    try:
        import sse_starlette.sse  # noqa: F401, PLC0415 - an extra
        import starlette.applications  # noqa: F401, PLC0415 - an extra
        import uvicorn  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("the server for server-sent events", "sse") from error


def create_app(reader: AnswerStreams, connections: ConnectionCount, *, hosts: Collection[str] = ()) -> Starlette:
    """Create the ASGI application. `hosts` are names, besides localhost, under which clients may reach it.

    Raises UsageError (missing_extra).
    """
    check_extra()
    from starlette.applications import Starlette  # noqa: PLC0415 - an extra
    from starlette.routing import Route  # noqa: PLC0415 - an extra

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await reader.aclose()

    allowed = frozenset({"localhost", *(host.lower() for host in hosts)})
    messages = EventStreamEndpoint(reader.messages, r"\d{1,20}-\d{1,20}", connections, allowed)
    chunks = EventStreamEndpoint(reader.chunks, r"\d{1,18}", connections, allowed)
    routes = [
        Route("/streams/{stream_id:path}/events", messages, methods=["GET"]),
        Route("/streams/{stream_id:path}/text", chunks, methods=["GET"]),
    ]
    return Starlette(lifespan=lifespan, routes=routes)


class EventStreamEndpoint:
    """One endpoint, as an ASGI application. `position` is the regular expression of its event ids."""

    def __init__(
        self, source: EventSource, position: str, connections: ConnectionCount, hosts: Collection[str]
    ) -> None:
        self._source = source
        self._position = re.compile(position)
        self._connections = connections
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one client until either side closes the connection."""
        from starlette.requests import Request  # noqa: PLC0415 - an extra

        request = Request(scope, receive)
        stream_id, position = str(request.path_params["stream_id"]), request.headers.get("last-event-id")
        client = request.client.host if request.client else ""
        if not is_allowed_host(request.headers.get("host", ""), self._hosts):
            response = _error_response(421, "this Host is not served here; see: petiole serve --allow-host")
        elif (position and not self._position.fullmatch(position)) or len(stream_id) > _MAX_STREAM_ID_LENGTH:
            response = _error_response(400, "Last-Event-ID is not an id of this endpoint, or the stream id is too long")
        elif self._connections.is_full(client):
            response = _error_response(503, "too many clients are connected, or too many from one; try again later")
        else:
            with self._connections.count(client):
                await self._serve(stream_id, position or None, scope, receive, send)
            return
        await response(scope, receive, send)

    async def _serve(self, stream_id: str, position: str | None, scope: Any, receive: Any, send: Any) -> None:
        from sse_starlette.sse import EventSourceResponse, SendTimeoutError  # noqa: PLC0415 - an extra

        limits = self._connections.limits
        response = EventSourceResponse(
            self._events(stream_id, position), ping=limits.ping_s, send_timeout=limits.send_timeout_s
        )
        try:
            await response(scope, receive, send)
        except SendTimeoutError:
            log.warning("client.timed_out", extra={"stream_id": stream_id, "timeout_s": limits.send_timeout_s})

    async def _events(self, stream_id: str, position: str | None) -> AsyncIterator[dict[str, str]]:
        try:
            async for event in self._source(stream_id, position):
                data = json.dumps(dict(event.data), ensure_ascii=False)
                yield {"event": event.name, "id": event.position, "data": data}
        except (BrokerUnavailable, StateStoreUnavailable) as error:
            # The client reconnects and continues after its last event.
            log.warning("client.disconnected", extra={"stream_id": stream_id, "error": error_text(error)})


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


def _error_response(status: int, reason: str) -> Any:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - an extra

    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None  # noqa: PLR2004 - Service Unavailable
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)
