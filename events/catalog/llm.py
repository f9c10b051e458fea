"""What the language model says: the answer it wrote, or why there is none."""

from __future__ import annotations

from typing import ClassVar, Literal

from events.content import Content, Count, Flag, Text
from events.event import Category, Event


class Usage(Content):
    """Tokens read and written; zero where the provider does not count."""

    input_tokens: Count = 0
    output_tokens: Count = 0


class GeneratedResponse(Content):
    """What a model wrote, which model, and why it stopped."""

    text: Text
    model: Text
    usage: Usage = Usage()
    finish_reason: Literal["stop", "length", "tool_calls", "interrupted"] = "stop"


class ModelFailure(Content):
    """Why a model gave no answer, and whether another attempt could."""

    model: Text
    error_type: Text
    error: Text
    is_retryable: Flag = False


class ModelEvent(Event):
    """Base of what the language model publishes."""

    category: ClassVar[Category] = Category.PROCESSING


class ResponseGeneratedEvent(ModelEvent):
    """A language model wrote an answer."""

    event_type: Literal["llm.response.generated"] = "llm.response.generated"
    content: GeneratedResponse


class ResponseFailedEvent(ModelEvent):
    """A language model gave no answer."""

    event_type: Literal["llm.response.failed"] = "llm.response.failed"
    content: ModelFailure
