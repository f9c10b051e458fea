"""What is said when one agent asks another: the request, its two kinds of answer, and answers that nobody awaits."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Parameters, Text
from petiole.events.event import Category, Event
from petiole.events.ids import SYSTEM_STREAM, EventId, StreamId, new_event_id


class RequestIdentity(Content):
    """Who asks whom for what; the four stand unchanged in the request and in its answer."""

    request_type: Text
    requester: Text
    responder: Text
    request_id: EventId = Field(default_factory=new_event_id)


class RequestContent(RequestIdentity):
    """What is asked for."""

    parameters: Parameters = Field(default_factory=dict)


class SuccessContent(RequestIdentity):
    """The answer, under `response` in the parameters."""

    parameters: Parameters


class FailureContent(RequestIdentity):
    """Why there is no answer."""

    error_type: Text
    error: Text


class UnmatchedResponse(RequestIdentity):
    """An answer that reached nobody, and why.

    late: nobody waits any more. foreign: who waits asked another responder. duplicate: it was answered already.
    """

    reason: Literal["late", "wrong_responder", "duplicate"]
    response_id: EventId


class RequestEvent(Event):
    """One agent asks another."""

    category: ClassVar[Category] = Category.REQUEST
    event_type: Literal["request.made"] = "request.made"
    stream_id: StreamId = SYSTEM_STREAM
    content: RequestContent


class ResponseSuccessEvent(Event):
    """A request was answered."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.succeeded"] = "response.succeeded"
    stream_id: StreamId = SYSTEM_STREAM
    content: SuccessContent


class ResponseFailureEvent(Event):
    """A request could not be answered."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.failed"] = "response.failed"
    stream_id: StreamId = SYSTEM_STREAM
    content: FailureContent


class ResponseUnmatchedEvent(Event):
    """An answer came that nobody waited for."""

    category: ClassVar[Category] = Category.RESPONSE
    event_type: Literal["response.unmatched"] = "response.unmatched"
    stream_id: StreamId = SYSTEM_STREAM
    content: UnmatchedResponse
