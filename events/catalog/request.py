"""Events of request and reply: the request, its success or failure reply, and replies without a waiting requester."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Parameters, Text
from petiole.events.event import Category, Event
from petiole.events.ids import SYSTEM_STREAM, EventId, RequestId, StreamId, new_event_id


class RequestIdentity(Content):
    """The fields that a request and its reply share, with equal values."""

    request_type: Text
    requester: Text
    responder: Text
    request_id: RequestId = Field(default_factory=new_event_id)


class RequestContent(RequestIdentity):
    """A request and its parameters."""

    parameters: Parameters = Field(default_factory=dict)


class SuccessContent(RequestIdentity):
    """A reply. Its value is the parameter `response`."""

    parameters: Parameters


class FailureContent(RequestIdentity):
    """A failure reply with its error."""

    error_type: Text
    error: Text


class UnmatchedResponse(RequestIdentity):
    """A reply that matched no waiting requester, and the reason.

    late: the requester no longer waits. foreign: the request was sent to another responder. duplicate: the request
    already has a reply.
    """

    reason: Literal["late", "wrong_responder", "duplicate"]
    response_id: EventId


class RequestEvent(Event):
    """A request was sent to an agent."""

    category: ClassVar[Category] = Category.REQUEST
    event_type: Literal["request.made"] = "request.made"
    stream_id: StreamId = SYSTEM_STREAM
    content: RequestContent


class ResponseSuccessEvent(Event):
    """A request got a reply."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.succeeded"] = "response.succeeded"
    stream_id: StreamId = SYSTEM_STREAM
    content: SuccessContent


class ResponseFailureEvent(Event):
    """A request failed."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.failed"] = "response.failed"
    stream_id: StreamId = SYSTEM_STREAM
    content: FailureContent


class ResponseUnmatchedEvent(Event):
    """A reply matched no waiting requester."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.unmatched"] = "response.unmatched"
    stream_id: StreamId = SYSTEM_STREAM
    content: UnmatchedResponse
