"""Responses: an answer to a request, as an event and as a value. Pure: nothing is sent here.

An answer is an event like any other. That it reaches the requester is part of its publication:
tasks/stores/scripts/deliver_reply.lua. Its id follows from the request's, so one request has one answer, whoever gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar
from uuid import UUID, uuid5

from pydantic import BaseModel, TypeAdapter

from petiole.events.catalog.request import (
    RequestEvent,
    ResponseFailureEvent,
    ResponseSuccessEvent,
    ResponseUnmatchedEvent,
)
from petiole.events.content import Value
from petiole.events.errors import Permanent, PetioleError, error_type_of, handler_not_found, responder_not_found
from petiole.events.event import Event
from petiole.events.subscriptions import Subscription

ValueT = TypeVar("ValueT")

UnmatchedReply: TypeAlias = Literal["late", "wrong_responder", "duplicate"]
"""Why an answer reached nobody."""

REQUEST_EVENT_TYPE = "request.made"
RESPONDER_FIELD = "content.responder"
REQUEST_TYPE_FIELD = "content.request_type"


@dataclass(frozen=True, slots=True)
class Response(Generic[ValueT]):
    """What came of a request: a value, or an error with its type and its message.

    Without an event, nobody answered: this process gave up waiting.
    """

    request_id: str
    value: ValueT | None = None
    error: str | None = None
    error_type: str | None = None
    event: ResponseSuccessEvent | ResponseFailureEvent | None = None

    @property
    def ok(self) -> bool:
        """There is a value; None, 0, False and '' are values."""
        return self.error_type is None


def parse_response(event: Event, returns: type[ValueT] | None = None) -> Response[ValueT]:
    """Read an answer; its value as `returns`, where that is given. Raises pydantic's ValidationError."""
    match event:
        case ResponseSuccessEvent():
            value = event.content.parameters.get("response")
            read = value if returns is None else TypeAdapter(returns).validate_python(value)
            return Response(event.content.request_id, value=read, event=event)  # type: ignore[arg-type]  # any, untyped
        case ResponseFailureEvent():
            said = event.content
            return Response(said.request_id, error=said.error, error_type=said.error_type, event=event)
    raise TypeError(event.event_type)


def build_unanswered(request: RequestEvent, error: PetioleError) -> Response[ValueT]:
    """Say that nobody answered."""
    return Response(request.content.request_id, error=str(error), error_type=error_type_of(error))


def build_success(request: RequestEvent, value: object) -> ResponseSuccessEvent:
    """Word an answer. Raises InvalidEvent for a value that no event can hold."""
    sendable = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    parameters: dict[str, object] = {"response": sendable}
    return request.caused(
        ResponseSuccessEvent,
        event_id=response_id(request),
        priority=request.priority,
        content=_request_identity(request) | {"parameters": parameters},
    )


def build_failure(request: RequestEvent, error_type: str, error: str) -> ResponseFailureEvent:
    """Word why there is no answer."""
    return request.caused(
        ResponseFailureEvent,
        event_id=response_id(request),
        priority=request.priority,
        content=_request_identity(request) | {"error_type": error_type, "error": error or error_type},
    )


def build_error_reply(request: RequestEvent, error: BaseException) -> ResponseFailureEvent:
    """Word an error as the answer."""
    return build_failure(request, error_type_of(error), str(error))


def response_id(request: RequestEvent) -> str:
    """Name the answer to a request."""
    return str(uuid5(UUID(request.event_id), "response"))


def _request_identity(request: RequestEvent) -> dict[str, Value]:
    return request.content.model_dump(exclude={"parameters"})


def build_unmatched_reply(event: Event, reason: UnmatchedReply) -> ResponseUnmatchedEvent:
    """Word that an answer reached nobody."""
    if not isinstance(event, ResponseSuccessEvent | ResponseFailureEvent):
        raise TypeError(event.event_type)
    said = event.content
    facts = {name: getattr(said, name) for name in ("request_type", "requester", "responder", "request_id")}
    return event.caused(
        ResponseUnmatchedEvent,
        event_id=str(uuid5(UUID(event.event_id), f"{reason} for {said.request_id}")),
        content=facts | {"reason": reason, "response_id": event.event_id},
    )


def responder_conditions(responder: str, request_type: str) -> dict[str, str]:
    """Say which requests a handler answers, as the filter of its subscription."""
    return {RESPONDER_FIELD: responder, REQUEST_TYPE_FIELD: request_type}


def is_responder(subscription: Subscription, responder: str) -> bool:
    """Tell whether a subscription that hears a request to that agent is there to answer it, not just to listen."""
    return subscription.agent == responder and subscription.where.get(RESPONDER_FIELD) == responder


def find_unanswerable_reason(
    request: RequestEvent, heard_by: Sequence[Subscription], known: Sequence[Subscription]
) -> Permanent | None:
    """Find out why nobody can answer a request that these subscriptions hear; None where somebody can."""
    asked = request.content
    if any(is_responder(each, asked.responder) for each in heard_by):
        return None
    if any(each.agent == asked.responder for each in known):
        return handler_not_found(asked.request_type, asked.responder)
    return responder_not_found(asked.request_type, asked.responder)
