"""Events of sessions: a conversation started or ended."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content
from petiole.events.event import Category, Event


class StreamStarted(Content):
    """The channel of a conversation, and the type of its session."""

    channel: str = "unknown"
    session_type: Literal["chat", "meeting", "call"] = "chat"


class StreamEnded(Content):
    """Why a conversation ended."""

    reason: Literal["closed", "idle", "failed"] = "closed"


class SessionEvent(Event):
    """Base class of the events about sessions."""

    category: ClassVar[Category] = Category.INPUT


class StreamStartedEvent(SessionEvent):
    """A conversation or session started."""

    event_type: Literal["input.stream.started"] = "input.stream.started"
    content: StreamStarted = StreamStarted()


class StreamEndedEvent(SessionEvent):
    """A conversation or session ended."""

    event_type: Literal["input.stream.ended"] = "input.stream.ended"
    content: StreamEnded = StreamEnded()
