"""What the language model says: the answer it wrote, or why there is none."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from petiole.events.content import Content, Count, Flag, Parameters, Text
from petiole.events.event import Category, Event

FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "interrupted"]
"""Why a model wrote no more: `interrupted` by a newer message; its text is what there was by then."""


class Usage(Content):
    """Tokens read and written; zero where the provider does not count. An estimate is ours, from the text."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    is_estimate: Flag = False


class ModelToolCall(Content):
    """A call of a tool that a model wants. It gets its id when it is asked for."""

    tool: Text
    arguments: Parameters = Field(default_factory=dict)


class GeneratedResponse(Content):
    """What a model wrote, which model, and why it stopped. One that calls tools may have written nothing."""

    text: str
    model: Text
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    calls: tuple[ModelToolCall, ...] = ()

    @model_validator(mode="after")
    def _check_not_empty(self) -> GeneratedResponse:
        if bool(self.calls) != (self.finish_reason == "tool_calls"):
            raise ValueError("calls come with the finish_reason 'tool_calls', and it with calls")
        if not self.text and self.finish_reason not in {"tool_calls", "interrupted"}:
            raise ValueError("an answer has text, unless it calls tools or was interrupted")
        return self


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
