"""Server-sent events for browsers: delivered answers, and answers that are being written.

    GET /streams/{stream_id}/events     delivered answers: `message`, {"message_id", "text"}
    GET /streams/{stream_id}/text       answers that are being written: `started`, `delta`, `finished` …, each
                                        {"answer_id", "attempt", "text"}

The id of an event is its position in the stream. A client that reconnects sends the last id as `Last-Event-ID`
(browsers do so automatically) and continues after it; without the header it starts with the oldest stored event.

The server sends a comment every `ping_s` to keep idle connections open. It closes a connection whose client reads
nothing for `send_timeout_s`.

Source: HTML Living Standard, section 9.2, Server-sent events.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable, StreamTimeout, StreamTruncated
from petiole.events.texts import error_text
from petiole.tasks import ResponseStreamReader
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.access import limits_of
from petiole.workers.gateways.identities import check_stream
from petiole.workers.gateways.problems import RequestRefused, answer_problems
from petiole.workers.state.keys import StateKeys
from petiole.workers.state.outbound_messages import OUTBOUND_START, OutboundMessageReader

_OUTBOUND_TIMEOUT_S = 4.0
_SILENCE_TIMEOUT_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a response: position, name and data."""

    position: str
    name: str
    data: Mapping[str, str | int]


EventSource: TypeAlias = Callable[[BusRuntime, str, str | None], AsyncIterator[ServerSentEvent]]
"""Yields the events of a stream after a position (None: all), and waits for more.

Raises BrokerUnavailable, StateStoreUnavailable.
"""


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of both endpoints."""
    return [
        _route(bus, "events", read_messages, r"\d{1,20}-\d{1,20}"),
        _route(bus, "text", read_chunks, r"\d{1,18}"),
    ]


def _route(bus: BusRuntime, name: str, source: EventSource, position: str) -> Route:
    """Build the route of an endpoint. `position` is the regular expression of its event ids."""

    async def serve(request: Request) -> Response:
        stream_id, last = str(request.path_params["stream_id"]), request.headers.get("last-event-id")
        if last and not re.fullmatch(position, last):
            reason = "Last-Event-ID is not an id of this endpoint; leave the header out to read from the start"
            raise RequestRefused(HTTPStatus.BAD_REQUEST, reason)
        await run_in_threadpool(check_stream, bus, request.scope, stream_id)
        return event_response(request, _encode(stream_id, source(bus, stream_id, last or None)))

    return Route(f"/streams/{{stream_id:path}}/{name}", answer_problems(serve), methods=["GET"])


async def _encode(stream_id: str, events: AsyncIterator[ServerSentEvent]) -> AsyncGenerator[dict[str, str]]:
    try:
        async for event in events:
            data = json.dumps(dict(event.data), ensure_ascii=False)
            yield {"event": event.name, "id": event.position, "data": data}
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # The client reconnects and continues after its last event.
        log.warning("client.disconnected", extra={"stream_id": stream_id, "error": error_text(error)})


def event_response(request: Request, events: AsyncIterator[dict[str, str]]) -> EventResponse:
    """Build the response that sends these events, each with `data`, and `id` and `event` if it has them."""
    limits = limits_of(request.scope)
    return EventResponse(events, ping=limits.ping_s, send_timeout=limits.send_timeout_s, sep="\n")


class EventResponse(EventSourceResponse):
    """A response of server-sent events that ends without an error if its client reads nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until either side closes the connection."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("client.timed_out", extra={"path": scope["path"], "timeout_s": self.send_timeout})


async def read_messages(bus: BusRuntime, stream_id: str, position: str | None) -> AsyncIterator[ServerSentEvent]:
    """Yield a stream's delivered answers after a position. An EventSource."""
    position = position or OUTBOUND_START
    with bus.state_store_access(f"reading the answers of {stream_id!r}"):
        # A client belongs to the event loop in which it is created.
        async with bus.connect_async() as client:
            messages = OutboundMessageReader(client, StateKeys(bus.settings.key_prefix))
            while True:
                for entry_id, message in await messages.read_after(stream_id, position, _OUTBOUND_TIMEOUT_S):
                    position = entry_id
                    yield ServerSentEvent(position, "message", message.model_dump())


async def read_chunks(bus: BusRuntime, stream_id: str, position: str | None) -> AsyncIterator[ServerSentEvent]:
    """Yield the chunks of a stream's answers after a position; skip chunks that have expired. An EventSource."""
    after, reader = int(position or 0), ResponseStreamReader(bus)
    with bus.state_store_access(f"reading the answers of {stream_id!r}"):
        while True:
            try:
                async for chunk in reader.all_aio(stream_id, after=after, timeout=_SILENCE_TIMEOUT_S):
                    after = chunk.number
                    data: dict[str, str | int] = {
                        "answer_id": chunk.answer_id,
                        "attempt": chunk.attempt,
                        "text": chunk.text,
                    }
                    yield ServerSentEvent(str(after), chunk.kind, data)
            except StreamTruncated as cut:
                after = cut.oldest - 1
            except StreamTimeout:
                # The stream was silent for a long time; its reader stays connected.
                continue
