"""What the world says to the agents: messages, sound, pictures, and streams that begin and end."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import AudioContent, Content, TextContent, VideoContent
from petiole.events.event import Category, Event


class StreamStarted(Content):
    """Which channel a conversation came in by, and of which type its session is."""

    channel: str = "unknown"
    session_type: Literal["chat", "meeting", "call"] = "chat"


class StreamEnded(Content):
    """Why a conversation is over."""

    reason: Literal["closed", "idle", "failed"] = "closed"


class InputEvent(Event):
    """Base of all that comes from outside."""

    category: ClassVar[Category] = Category.INPUT


class TextMessageEvent(InputEvent):
    """A text message from any channel."""

    event_type: Literal["input.message.received"] = "input.message.received"
    content: TextContent


class AudioChunkEvent(InputEvent):
    """A chunk of sound from a voice input."""

    event_type: Literal["input.audio.chunk"] = "input.audio.chunk"
    content: AudioContent


class VideoFrameEvent(InputEvent):
    """A frame from a video input."""

    event_type: Literal["input.video.frame"] = "input.video.frame"
    content: VideoContent


class StreamStartedEvent(InputEvent):
    """A conversation or session began."""

    event_type: Literal["input.stream.started"] = "input.stream.started"
    content: StreamStarted = StreamStarted()


class StreamEndedEvent(InputEvent):
    """A conversation or session is over."""

    event_type: Literal["input.stream.ended"] = "input.stream.ended"
    content: StreamEnded = StreamEnded()
