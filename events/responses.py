"""Responses: an answer to a request, as an event and as a value. Pure: nothing is sent here.

An answer is an event like any other. That it reaches the requester is part of its publication:
tasks/stores/scripts/respond.lua. Its id follows from the request's, so one request has one answer, whoever gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar
from uuid import UUID, uuid5

from pydantic import BaseModel, TypeAdapter

from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent, ResponseLateEvent, ResponseSuccessEvent
from petiole.events.content import Value
from petiole.events.errors import Permanent, PetioleError, error_type_of, handler_not_found, responder_not_found
from petiole.events.event import Event
from petiole.events.subscriptions import Subscription

Answer = TypeVar("Answer")

Unwanted: TypeAlias = Literal["late", "foreign", "duplicate"]
"""Why an answer reached nobody."""

REQUESTED = "request.made"
RESPONDER = "content.responder"
REQUEST_TYPE = "content.request_type"


@dataclass(frozen=True, slots=True)
class Response(Generic[Answer]):
    """What came of a request: a value, or an error with its type and its message.

    Without an event, nobody answered: this process gave up waiting.
    """

    request_id: str
    value: Answer | None = None
    error: str | None = None
    error_type: str | None = None
    event: ResponseSuccessEvent | ResponseFailureEvent | None = None

    @property
    def ok(self) -> bool:
        """There is a value; None, 0, False and '' are values."""
        return self.error_type is None


def response(event: Event, returns: type[Answer] | None = None) -> Response[Answer]:
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


def unanswered(request: RequestEvent, error: PetioleError) -> Response[Answer]:
    """Say that nobody answered."""
    return Response(request.content.request_id, error=str(error), error_type=error_type_of(error))


def success(request: RequestEvent, value: object) -> ResponseSuccessEvent:
    """Word an answer. Raises InvalidEvent for a value that no event can hold."""
    sendable = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    parameters: dict[str, object] = {"response": sendable}
    return request.caused(
        ResponseSuccessEvent,
        event_id=response_id(request),
        priority=request.priority,
        content=_exchange(request) | {"parameters": parameters},
    )


def failure(request: RequestEvent, error_type: str, error: str) -> ResponseFailureEvent:
    """Word why there is no answer."""
    return request.caused(
        ResponseFailureEvent,
        event_id=response_id(request),
        priority=request.priority,
        content=_exchange(request) | {"error_type": error_type, "error": error or error_type},
    )


def failure_of(request: RequestEvent, error: BaseException) -> ResponseFailureEvent:
    """Word an error as the answer."""
    return failure(request, error_type_of(error), str(error))


def response_id(request: RequestEvent) -> str:
    """Name the answer to a request."""
    return str(uuid5(UUID(request.event_id), "response"))


def _exchange(request: RequestEvent) -> dict[str, Value]:
    return request.content.model_dump(exclude={"parameters"})


def unwanted(event: Event, reason: Unwanted) -> ResponseLateEvent:
    """Word that an answer reached nobody."""
    if not isinstance(event, ResponseSuccessEvent | ResponseFailureEvent):
        raise TypeError(event.event_type)
    said = event.content
    facts = {name: getattr(said, name) for name in ("request_type", "requester", "responder", "request_id")}
    return event.caused(
        ResponseLateEvent,
        event_id=str(uuid5(UUID(event.event_id), f"{reason} for {said.request_id}")),
        content=facts | {"reason": reason, "response_id": event.event_id},
    )


def conditions(responder: str, request_type: str) -> dict[str, str]:
    """Say which requests a handler answers, as the filter of its subscription."""
    return {RESPONDER: responder, REQUEST_TYPE: request_type}


def is_answerer(subscription: Subscription, responder: str) -> bool:
    """Tell whether a subscription that hears a request to that agent is there to answer it, not just to listen."""
    return subscription.agent == responder and subscription.where.get(RESPONDER) == responder


def unanswerable(
    request: RequestEvent, heard_by: Sequence[Subscription], known: Sequence[Subscription]
) -> Permanent | None:
    """Find out why nobody can answer a request that these subscriptions hear; None where somebody can."""
    asked = request.content
    if any(is_answerer(each, asked.responder) for each in heard_by):
        return None
    if any(each.agent == asked.responder for each in known):
        return handler_not_found(asked.request_type, asked.responder)
    return responder_not_found(asked.request_type, asked.responder)
