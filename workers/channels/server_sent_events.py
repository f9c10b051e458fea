"""Server-sent events: an HTTP server for browsers, with delivered answers and answers that are being written.

    GET /streams/{stream_id}/events     delivered answers: `message`, {"message_id", "text"}
    GET /streams/{stream_id}/text       answers that are being written: `started`, `delta`, `finished` …, each
                                        {"answer_id", "attempt", "text"}

The id of an event is its position in the stream. A client that reconnects sends the last id as `Last-Event-ID`
(browsers do so automatically) and continues after it; without the header it starts with the oldest stored event.

The server sends a comment every `ping_s` to keep idle connections open. It closes a connection whose client reads
nothing for `send_timeout_s`, and answers 503 while `connections` clients are connected.

Source: HTML Living Standard, section 9.2, Server-sent events.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

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
    """The limits of the server: connections, interval of comments, timeout for a client that does not read."""

    connections: int = 100
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


@dataclass(slots=True)
class ConnectionCount:
    """Counts the open connections."""

    limits: ConnectionLimits
    open: int = 0

    @property
    def is_full(self) -> bool:
        return self.open >= self.limits.connections


def create_app(reader: AnswerStreams, connections: ConnectionCount) -> Starlette:
    """Create the ASGI application. Raises UsageError (missing_extra)."""
    try:
        from starlette.applications import Starlette  # noqa: PLC0415 - an extra
        from starlette.routing import Route  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("the server for server-sent events", "sse") from error

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await reader.aclose()

    messages = EventStreamEndpoint(reader.messages, r"\d{1,20}-\d{1,20}", connections)
    chunks = EventStreamEndpoint(reader.chunks, r"\d{1,18}", connections)
    routes = [
        Route("/streams/{stream_id:path}/events", messages, methods=["GET"]),
        Route("/streams/{stream_id:path}/text", chunks, methods=["GET"]),
    ]
    return Starlette(lifespan=lifespan, routes=routes)


class EventStreamEndpoint:
    """One endpoint, as an ASGI application. `position` is the regular expression of its event ids."""

    def __init__(self, source: EventSource, position: str, connections: ConnectionCount) -> None:
        self._source = source
        self._position = re.compile(position)
        self._connections = connections

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one client until either side closes the connection."""
        from starlette.requests import Request  # noqa: PLC0415 - an extra

        request = Request(scope, receive)
        stream_id, position = str(request.path_params["stream_id"]), request.headers.get("last-event-id")
        if (position and not self._position.fullmatch(position)) or len(stream_id) > _MAX_STREAM_ID_LENGTH:
            response = _error_response(400, "Last-Event-ID is not an id of this endpoint, or the stream id is too long")
            await response(scope, receive, send)
        elif self._connections.is_full:
            response = _error_response(503, f"{self._connections.open} clients are connected; try again later")
            await response(scope, receive, send)
        else:
            await self._serve(stream_id, position or None, scope, receive, send)

    async def _serve(self, stream_id: str, position: str | None, scope: Any, receive: Any, send: Any) -> None:
        from sse_starlette.sse import EventSourceResponse, SendTimeoutError  # noqa: PLC0415 - an extra

        limits = self._connections.limits
        self._connections.open += 1
        try:
            response = EventSourceResponse(
                self._events(stream_id, position), ping=limits.ping_s, send_timeout=limits.send_timeout_s
            )
            await response(scope, receive, send)
        except SendTimeoutError:
            log.warning("client.timed_out", extra={"stream_id": stream_id, "timeout_s": limits.send_timeout_s})
        finally:
            self._connections.open -= 1

    async def _events(self, stream_id: str, position: str | None) -> AsyncIterator[dict[str, str]]:
        try:
            async for event in self._source(stream_id, position):
                data = json.dumps(dict(event.data), ensure_ascii=False)
                yield {"event": event.name, "id": event.position, "data": data}
        except (BrokerUnavailable, StateStoreUnavailable) as error:
            # The client reconnects and continues after its last event.
            log.warning("client.disconnected", extra={"stream_id": stream_id, "error": error_text(error)})


def _error_response(status: int, reason: str) -> Any:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - an extra

    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None  # noqa: PLR2004 - Service Unavailable
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)
