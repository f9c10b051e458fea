"""Events of language models: a generated response, or the failure to generate one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from petiole.events.content import Content, Count, Flag, Parameters, Text
from petiole.events.event import Category, Event

FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "interrupted"]
"""Why generation ended. `interrupted`: a newer message arrived, and the text is incomplete."""


class Usage(Content):
    """Input and output tokens; zero if the provider does not count them. `is_estimate`: counted by us from the text."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    is_estimate: Flag = False


class ModelToolCall(Content):
    """A tool call that a model requested. The orchestrator assigns its id."""

    tool: Text
    arguments: Parameters = Field(default_factory=dict)


class GeneratedResponse(Content):
    """The text or the tool calls that a model generated. The text may be empty if there are tool calls."""

    text: str
    model: Text
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    calls: tuple[ModelToolCall, ...] = ()

    @model_validator(mode="after")
    def _check_not_empty(self) -> GeneratedResponse:
        if bool(self.calls) != (self.finish_reason == "tool_calls"):
            raise ValueError("has calls without the finish_reason 'tool_calls', or the reverse; give both or neither")
        if not self.text and self.finish_reason not in {"tool_calls", "interrupted"}:
            raise ValueError("has no text; only a response with tool calls or an interrupted one may have none")
        return self


class ModelFailure(Content):
    """Why a model generated no response, and whether a retry may succeed."""

    model: Text
    error_type: Text
    error: Text
    is_retryable: Flag = False


class ModelEvent(Event):
    """Base class of the events of language models."""

    category: ClassVar[Category] = Category.PROCESSING


class ResponseGeneratedEvent(ModelEvent):
    """A language model generated a response."""

    event_type: Literal["llm.response.generated"] = "llm.response.generated"
    content: GeneratedResponse


class ResponseFailedEvent(ModelEvent):
    """A language model generated no response."""

    event_type: Literal["llm.response.failed"] = "llm.response.failed"
    content: ModelFailure
