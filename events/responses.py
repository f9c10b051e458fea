"""Replies to requests as events and as values. Pure functions: nothing is published here.

A reply is an ordinary event. Publishing it also delivers it to the requester: tasks/stores/scripts/deliver_reply.lua.
Its id is derived from the request's id, so a request has exactly one reply.
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
from petiole.events.texts import error_text

ValueT = TypeVar("ValueT")

UnmatchedReply: TypeAlias = Literal["late", "wrong_responder", "duplicate"]
"""Why a reply matched no waiting requester."""

REQUEST_EVENT_TYPE = "request.made"
RESPONDER_FIELD = "content.responder"
REQUEST_TYPE_FIELD = "content.request_type"


@dataclass(frozen=True, slots=True)
class Response(Generic[ValueT]):
    """The result of a request: a value, or an error with its type and its message.

    `event` is None if no reply arrived before the timeout.
    """

    request_id: str
    value: ValueT | None = None
    error: str | None = None
    error_type: str | None = None
    event: ResponseSuccessEvent | ResponseFailureEvent | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value. None, 0, False and '' are values."""
        return self.error_type is None


def parse_response(event: Event, returns: type[ValueT] | None = None) -> Response[ValueT]:
    """Read a reply event; validate its value as `returns` if that is given. Raises pydantic's ValidationError."""
    match event:
        case ResponseSuccessEvent():
            value = event.content.parameters.get("response")
            read = value if returns is None else TypeAdapter(returns).validate_python(value)
            return Response(event.content.request_id, value=read, event=event)  # type: ignore[arg-type]  # any, untyped
        case ResponseFailureEvent():
            failure = event.content
            return Response(failure.request_id, error=failure.error, error_type=failure.error_type, event=event)
    raise TypeError(event.event_type)


def build_unanswered(request: RequestEvent, error: PetioleError) -> Response[ValueT]:
    """Build the response for a request without a reply."""
    return Response(request.content.request_id, error=error_text(error), error_type=error_type_of(error))


def build_success(request: RequestEvent, value: object) -> ResponseSuccessEvent:
    """Build the reply event for a value. Raises InvalidEvent if an event cannot hold the value."""
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
        content=_request_identity(request) | {"error_type": error_type, "error": error},
    )


def build_error_reply(request: RequestEvent, error: BaseException) -> ResponseFailureEvent:
    """Build the failure reply for an exception."""
    return build_failure(request, error_type_of(error), error_text(error))


def response_id(request: RequestEvent) -> str:
    """Derive the event id of the reply to a request."""
    return str(uuid5(UUID(request.event_id), "response"))


def _request_identity(request: RequestEvent) -> dict[str, Value]:
    return request.content.model_dump(exclude={"parameters"})


def build_unmatched_reply(event: Event, reason: UnmatchedReply) -> ResponseUnmatchedEvent:
    """Build the event for a reply that matched no waiting requester."""
    if not isinstance(event, ResponseSuccessEvent | ResponseFailureEvent):
        raise TypeError(event.event_type)
    reply = event.content
    facts = {name: getattr(reply, name) for name in ("request_type", "requester", "responder", "request_id")}
    return event.caused(
        ResponseUnmatchedEvent,
        event_id=str(uuid5(UUID(event.event_id), f"{reason} for {reply.request_id}")),
        content=facts | {"reason": reason, "response_id": event.event_id},
    )


def responder_conditions(responder: str, request_type: str) -> dict[str, str]:
    """Build the subscription filter that selects the requests of one type to one responder."""
    return {RESPONDER_FIELD: responder, REQUEST_TYPE_FIELD: request_type}


def is_responder(subscription: Subscription, responder: str) -> bool:
    """Return whether a subscription answers requests to that agent, instead of only observing them."""
    return subscription.agent == responder and subscription.where.get(RESPONDER_FIELD) == responder


def find_unanswerable_reason(
    request: RequestEvent, heard_by: Sequence[Subscription], known: Sequence[Subscription]
) -> Permanent | None:
    """Return the error if no subscription can answer the request; None if one can.

    Args:
        request: The request.
        heard_by: The subscriptions that receive the request.
        known: All registered subscriptions.
    """
    request_type, responder = request.content.request_type, request.content.responder
    if any(is_responder(subscription, responder) for subscription in heard_by):
        return None
    if any(subscription.agent == responder for subscription in known):
        return handler_not_found(request_type, responder)
    return responder_not_found(request_type, responder)
