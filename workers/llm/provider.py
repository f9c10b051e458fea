"""LanguageModel: what an agent knows of a model, whichever one answers.

A model answers by parts, as they come:

    TextDelta            some more text
    ToolCallRequested    a call that it wants to be made; `finish_reason` is tool_calls then
    Finished             the last: why, by which model, and what it took

Whoever reads may stop at any time, by cancelling or by `aclose()`: what the model holds, such as a connection to its
endpoint, is closed before that returns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from petiole.events.catalog.llm import FinishReason, GeneratedResponse, ModelToolCall, Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.content import Value

_CHARACTERS_PER_TOKEN = 4
"""Of English text, as OpenAI's page on its tokenizer says."""

_NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Some more text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallRequested:
    """A call of a tool that the model wants to be made."""

    tool: str
    arguments: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer."""

    model: str
    usage: Usage = _NO_USAGE
    finish_reason: FinishReason = "stop"


ResponsePart: TypeAlias = TextDelta | ToolCallRequested | Finished


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A tool as a model is told of it; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object]


@runtime_checkable
class LanguageModel(Protocol):
    """Something that writes an answer. Made once in each worker process; several handlers may use it at once."""

    name: str

    def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Write the answer to one request; an `async def` with `yield` is the simplest form.

        Raises, when it is read: ProviderUnavailable where the same request may succeed later, else ProviderRefused.
        """
        ...


@dataclass(slots=True)
class ResponseBuilder:
    """What has come of an answer so far."""

    text: str = ""
    calls: list[ModelToolCall] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, part: ResponsePart) -> None:
        """Take the next part."""
        match part:
            case TextDelta():
                self.text += part.text
            case ToolCallRequested():
                self.calls.append(ModelToolCall(tool=part.tool, arguments=dict(part.arguments)))
            case Finished():
                self.finished = part

    def build(self, model: str, request: ModelRequest) -> GeneratedResponse:
        """Word it as a response; without an end, as one that was interrupted, whose usage is estimated."""
        if self.finished is None:
            usage = estimate_usage(request, self.text)
            return GeneratedResponse(text=self.text, model=model, usage=usage, finish_reason="interrupted")
        end = self.finished
        # A model may call tools that it was told nothing of.
        calls = tuple(self.calls) if request.may_call_tools else ()
        reason = "stop" if end.finish_reason == "tool_calls" else end.finish_reason
        return GeneratedResponse(
            text=self.text,
            model=end.model,
            usage=end.usage,
            finish_reason="tool_calls" if calls else reason,
            calls=calls,
        )


def estimate_usage(request: ModelRequest, text: str) -> Usage:
    """Estimate what an answer took whose provider did not say so."""
    said = [request.text, *(item.text for item in request.context), *(answer.text for answer in request.tools)]
    return Usage(
        input_tokens=_estimate_tokens(sum(map(len, said))), output_tokens=_estimate_tokens(len(text)), is_estimate=True
    )


def _estimate_tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)
