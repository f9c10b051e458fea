"""Server-sent events: the mailbox, and answers while they are written, for browsers and whoever else reads along.

    GET /streams/{stream_id}/events     what was delivered: `message`, {"message_id", "text"}
    GET /streams/{stream_id}/text       what is being written: `started`, `delta`, `finished` …, each
                                        {"answer_id", "attempt", "text"}

Each event has the id of its place. A reader that comes back says with `Last-Event-ID` (as browsers do by themselves)
which one it had last, and misses nothing that is kept; one that says nothing begins with the oldest.

A silent connection is kept up by a comment every `ping_s`. A reader that does not take what it is sent for
`send_timeout_s` is dropped, and above `connections` at once the next is told to come later (503).

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

if TYPE_CHECKING:
    from starlette.applications import Starlette

_RETRY_AFTER_S: Final = 5
_MAX_STREAM_ID_LENGTH: Final = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event as a reader gets it: its place, its name, and what it says."""

    position: str
    name: str
    data: Mapping[str, str | int]


EventSource: TypeAlias = Callable[[str, str | None], AsyncIterator[ServerSentEvent]]
"""Yields what comes in a stream after a place, None is the beginning, and waits for more. Raises BrokerUnavailable."""


class AnswerStreams(Protocol):
    """Where streams are read."""

    def messages(self, stream_id: str, place: str | None) -> AsyncIterator[ServerSentEvent]:
        """Read what was delivered. A Source."""
        ...

    def chunks(self, stream_id: str, place: str | None) -> AsyncIterator[ServerSentEvent]:
        """Read what is being written. A Source."""
        ...

    async def aclose(self) -> None:
        """Read no more."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many may read at once, and how long one may be silent, or in the way."""

    connections: int = 100
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


@dataclass(slots=True)
class ConnectionCount:
    """How many read."""

    limits: ConnectionLimits
    open: int = 0

    @property
    def is_full(self) -> bool:
        return self.open >= self.limits.connections


def create_app(reader: AnswerStreams, connections: ConnectionCount) -> Starlette:
    """Make the ASGI application. Raises UsageError (missing_extra)."""
    try:
        from starlette.applications import Starlette  # noqa: PLC0415 - it comes with an extra
        from starlette.routing import Route  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise missing_extra("the server of answers", "sse") from error

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        await reader.aclose()

    messages = EventStreamEndpoint(reader.messages, r"\d{1,20}-\d{1,20}", connections)
    pieces = EventStreamEndpoint(reader.chunks, r"\d{1,18}", connections)
    routes = [
        Route("/streams/{stream_id:path}/events", messages, methods=["GET"]),
        Route("/streams/{stream_id:path}/text", pieces, methods=["GET"]),
    ]
    return Starlette(lifespan=closing, routes=routes)


class EventStreamEndpoint:
    """One endpoint, as an ASGI application."""

    def __init__(self, source: EventSource, place: str, gate: ConnectionCount) -> None:
        self._source = source
        self._place = re.compile(place)
        self._gate = gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one reader, until it goes or is dropped."""
        from starlette.requests import Request  # noqa: PLC0415 - as above

        request = Request(scope, receive)
        stream_id, place = str(request.path_params["stream_id"]), request.headers.get("last-event-id")
        if (place and not self._place.fullmatch(place)) or len(stream_id) > _MAX_STREAM_ID_LENGTH:
            answer = _error_response(400, "Last-Event-ID is none of this stream's, or the stream's name is too long")
            await answer(scope, receive, send)
        elif self._gate.is_full:
            answer = _error_response(503, f"{self._gate.open} read already; come again later")
            await answer(scope, receive, send)
        else:
            await self._serve(stream_id, place or None, scope, receive, send)

    async def _serve(self, stream_id: str, place: str | None, scope: Any, receive: Any, send: Any) -> None:
        from sse_starlette.sse import EventSourceResponse, SendTimeoutError  # noqa: PLC0415 - as above

        limits = self._gate.limits
        self._gate.open += 1
        try:
            response = EventSourceResponse(
                self._events(stream_id, place), ping=limits.ping_s, send_timeout=limits.send_timeout_s
            )
            await response(scope, receive, send)
        except SendTimeoutError:
            log.warning("reader.disconnected", extra={"stream_id": stream_id, "reason": "it takes nothing"})
        finally:
            self._gate.open -= 1

    async def _events(self, stream_id: str, place: str | None) -> AsyncIterator[dict[str, str]]:
        try:
            async for sent in self._source(stream_id, place):
                yield {"event": sent.name, "id": sent.position, "data": json.dumps(dict(sent.data), ensure_ascii=False)}
        except (BrokerUnavailable, StateStoreUnavailable) as error:
            # The reader comes back by itself, and says where it was.
            log.warning("reader.read_failed", extra={"stream_id": stream_id, "error": str(error)})


def _error_response(status: int, reason: str) -> Any:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - as above

    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None  # noqa: PLR2004 - as HTTP has it
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)
