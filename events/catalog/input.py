"""Events from users: text messages, audio and video."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import AudioContent, TextContent, VideoContent
from petiole.events.event import Category, Event


class InputEvent(Event):
    """Base class of the events from outside the system."""

    category: ClassVar[Category] = Category.INPUT


class TextMessageEvent(InputEvent):
    """A text message arrived from a channel."""

    event_type: Literal["input.message.received"] = "input.message.received"
    content: TextContent


class AudioChunkEvent(InputEvent):
    """A chunk of audio arrived from a voice input."""

    event_type: Literal["input.audio.chunk"] = "input.audio.chunk"
    content: AudioContent


class VideoFrameEvent(InputEvent):
    """A frame arrived from a video input."""

    event_type: Literal["input.video.frame"] = "input.video.frame"
    content: VideoContent
