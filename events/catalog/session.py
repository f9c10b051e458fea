"""Sessions: conversations that begin and end."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content
from petiole.events.event import Category, Event


class StreamStarted(Content):
    """Which channel a conversation came in by, and of which type its session is."""

    channel: str = "unknown"
    session_type: Literal["chat", "meeting", "call"] = "chat"


class StreamEnded(Content):
    """Why a conversation is over."""

    reason: Literal["closed", "idle", "failed"] = "closed"


class SessionEvent(Event):
    """Base of the events that tell of a session."""

    category: ClassVar[Category] = Category.INPUT


class StreamStartedEvent(SessionEvent):
    """A conversation or session began."""

    event_type: Literal["input.stream.started"] = "input.stream.started"
    content: StreamStarted = StreamStarted()


class StreamEndedEvent(SessionEvent):
    """A conversation or session is over."""

    event_type: Literal["input.stream.ended"] = "input.stream.ended"
    content: StreamEnded = StreamEnded()
