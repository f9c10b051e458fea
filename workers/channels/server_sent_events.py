"""Server-sent events: the mailbox over HTTP, for browsers and whoever else reads along.

    GET /streams/{stream_id}/events      text/event-stream: `message` events, whose data is {"message_id", "text"}

Each event has the id of its place in the mailbox. A reader that comes back says with `Last-Event-ID` (as browsers do by
themselves) which one it had last, and misses none of the last thousand of the last day; one that says nothing begins
with the oldest.

A silent connection is kept up by a comment every `ping_s`. A reader that does not take what it is sent for
`send_timeout_s` is dropped, and above `connections` at once the next is told to come later (503).

Source: HTML Living Standard, section 9.2, Server-sent events.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from events.errors import BrokerUnavailable, MissingExtra

if TYPE_CHECKING:
    from starlette.applications import Starlette

BEGINNING: Final = "0-0"
_PLACE: Final = re.compile(r"\d{1,20}-\d{1,20}")
_LOOK_S: Final = 4.0
_COME_AGAIN_S: Final = 5
_STREAM_ID_LENGTH: Final = 255

log = logging.getLogger(__name__)


class Message(Protocol):
    """An answer as it is kept."""

    @property
    def message_id(self) -> str: ...

    @property
    def text(self) -> str: ...


class Reader(Protocol):
    """Where answers are read."""

    async def after(self, stream_id: str, place: str, timeout_s: float) -> Sequence[tuple[str, Message]]:
        """Read a stream's answers after a place, waiting so long for the first. Raises BrokerUnavailable."""
        ...

    async def aclose(self) -> None:
        """Read no more."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may read at once, and how long one may be silent, or in the way."""

    connections: int = 100
    ping_s: float = 15.0
    send_timeout_s: float = 30.0


def create_app(reader: Reader, limits: Limits = Limits()) -> Starlette:
    """Make the ASGI application. Raises MissingExtra."""
    try:
        from starlette.applications import Starlette  # noqa: PLC0415 - it comes with an extra
        from starlette.routing import Route  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise MissingExtra("the server of answers", "sse") from error
    events = StreamOfAnswers(reader, limits)

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        await reader.aclose()

    return Starlette(lifespan=closing, routes=[Route("/streams/{stream_id:path}/events", events, methods=["GET"])])


class StreamOfAnswers:
    """The one endpoint, as an ASGI application. `open` counts those who read."""

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self.open = 0
        self._reader = reader
        self._limits = limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one reader, until it goes or is dropped."""
        from starlette.requests import Request  # noqa: PLC0415 - as above

        request = Request(scope, receive)
        stream_id = str(request.path_params["stream_id"])
        place = request.headers.get("last-event-id") or BEGINNING
        if not _PLACE.fullmatch(place) or len(stream_id) > _STREAM_ID_LENGTH:
            await _refuse(400, "Last-Event-ID is none of this server's, or the stream's name is too long")(
                scope, receive, send
            )
        elif self.open >= self._limits.connections:
            await _refuse(503, f"{self.open} read already; come again later", {"Retry-After": str(_COME_AGAIN_S)})(
                scope, receive, send
            )
        else:
            await self._serve(stream_id, place, scope, receive, send)

    async def _serve(self, stream_id: str, place: str, scope: Any, receive: Any, send: Any) -> None:
        from sse_starlette.sse import EventSourceResponse, SendTimeoutError  # noqa: PLC0415 - as above

        self.open += 1
        try:
            response = EventSourceResponse(
                self._events(stream_id, place), ping=self._limits.ping_s, send_timeout=self._limits.send_timeout_s
            )
            await response(scope, receive, send)
        except SendTimeoutError:
            log.warning("reader.dropped", extra={"stream_id": stream_id, "reason": "it takes nothing"})
        finally:
            self.open -= 1

    async def _events(self, stream_id: str, place: str) -> AsyncIterator[dict[str, str]]:
        while True:
            try:
                found = await self._reader.after(stream_id, place, _LOOK_S)
            except BrokerUnavailable as error:
                # The reader comes back by itself, and says where it was.
                log.warning("reader.left", extra={"stream_id": stream_id, "error": str(error)})
                return
            for entry_id, message in found:
                said = {"message_id": message.message_id, "text": message.text}
                yield {"event": "message", "id": entry_id, "data": json.dumps(said, ensure_ascii=False)}
                place = entry_id


def _refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> Any:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - as above

    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)
