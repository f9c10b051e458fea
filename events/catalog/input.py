"""Events from users: text messages, audio and video."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import AudioContent, Content, Parameters, Text, TextContent, VideoContent
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


class ReceivedWebhook(Content):
    """A webhook of another system: which system, the id that it gave, and its JSON object."""

    source: Text
    webhook_id: Text
    payload: Parameters = Field(default_factory=dict)


class WebhookEvent(InputEvent):
    """Another system sent a webhook, and its signature was verified."""

    event_type: Literal["input.webhook.received"] = "input.webhook.received"
    content: ReceivedWebhook
