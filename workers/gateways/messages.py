"""Messages of users over HTTP.

    POST /streams/{stream_id}/messages      {"text": "…"}, and optionally "user_id"
    Idempotency-Key: a key of the client    optional: a repeated key publishes nothing
    DELETE /streams/{stream_id}/messages/{event_id}     ends all that runs or waits for a message: 204

Answers 202 with {"event_id", "stream_id", "correlation_id"} once the message is published. The answer to the message is
read at `Location`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.content import Text
from petiole.events.event import Event
from petiole.events.ids import derived_event_id
from petiole.events.validation import invalid_event
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime
from petiole.workers.agents.input import publish_message
from petiole.workers.gateways.flows import read_first_event
from petiole.workers.gateways.identities import IDENTITY, check_stream
from petiole.workers.gateways.problems import RequestBody, RequestRefused, answer_problems, invalid_body, read_json_body

_MAX_KEY_LENGTH: Final = 255
_OPERATOR: Final = "an HTTP client"


class MessageBody(RequestBody):
    """The body of a POST. `user_id` is ignored if the server knows the user."""

    text: Text
    user_id: Annotated[str, Field(min_length=1, max_length=255)] | None = None


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes that publish and cancel messages."""

    async def post(request: Request) -> Response:
        stream_id, key = str(request.path_params["stream_id"]), request.headers.get("idempotency-key", "")
        if len(key) > _MAX_KEY_LENGTH:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "Idempotency-Key has more than 255 characters; shorten it")
        try:
            body = MessageBody.model_validate_json(await read_json_body(request))
        except ValidationError as error:
            raise invalid_body(error) from error
        await run_in_threadpool(partial(check_stream, bus, request.scope, stream_id, is_write=True))
        user_id = user_of(request.scope) or body.user_id
        message_id = derived_event_id("messages", stream_id, key) if key else None
        submit = partial(submit_message, bus, body.text, stream_id, user_id=user_id, message_id=message_id)
        event_id = await run_in_threadpool(submit)
        answer = {"event_id": event_id, "stream_id": stream_id, "correlation_id": event_id}
        headers = {"Location": f"{request.scope.get('root_path', '')}/streams/{quote(stream_id, safe='')}/events"}
        return JSONResponse(answer, HTTPStatus.ACCEPTED, headers)

    async def cancel(request: Request) -> Response:
        event_id = await run_in_threadpool(partial(_find_message, bus, request))
        by = caller_of(request.scope) or _OPERATOR
        await run_in_threadpool(partial(cancel_flow, event_id, by=by, bus=bus))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    path = "/streams/{stream_id:path}/messages"
    return [
        Route(path, answer_problems(post), methods=["POST"]),
        Route(f"{path}/{{event_id}}", answer_problems(cancel), methods=["DELETE"]),
    ]


def _find_message(bus: BusRuntime, request: Request) -> str:
    """Return the id of the message that a path names. Raises RequestRefused if its stream has no such message."""
    stream_id, event_id = str(request.path_params["stream_id"]), str(request.path_params["event_id"])
    check_stream(bus, request.scope, stream_id, is_write=True)
    with bus.state_store_access("looking up a message"):
        message = read_first_event(bus, event_id)
    if not isinstance(message, TextMessageEvent) or message.stream_id != stream_id:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"the stream {stream_id!r} has no message {event_id!r}")
    return event_id


def submit_message(
    bus: BusRuntime,
    text: str,
    stream_id: str,
    *,
    user_id: str | None = None,
    message_id: str | None = None,
    source: str = "http",
    extra: Mapping[str, str] | None = None,
) -> str:
    """Publish a user's message, unless one with this id was published; return its event id, which is that of its flow.

    Raises: InvalidEvent, SessionEnded, QueueFull, BrokerUnavailable, StateStoreUnavailable, SystemStopping.
    """
    if message_id is not None and is_published(bus, message_id):
        return message_id
    try:
        message = publish_message(
            text,
            stream_id=stream_id,
            user_id=user_id,
            channel=source,
            source=source,
            event_id=message_id,
            extra=extra,
            publish=partial(publish_event, bus),
            bus=bus,
        )
    except ValidationError as error:
        raise invalid_event("input.message.received", error) from error
    return message.event_id


def is_published(bus: BusRuntime, message_id: str) -> bool:
    """Return whether the message that begins this flow was published."""
    with bus.state_store_access("looking up a message"):
        return bus.stores.history.first_entry_of_flow(message_id) is not None


def publish_event(bus: BusRuntime, event: Event) -> None:
    """Publish an event on this bus. Raises as `submit_message`."""
    commit(bus, [validate(bus, event)], is_refusable=True)


def caller_of(scope: Scope) -> str | None:
    """Return the name of the caller."""
    return getattr(scope.get(IDENTITY), "name", None)


def user_of(scope: Scope) -> str | None:
    """Return the user on whose behalf the caller acts."""
    return getattr(scope.get(IDENTITY), "user_id", None)
