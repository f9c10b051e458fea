"""LanguageModel: the interface of all language models.

A model yields the parts of its answer as they arrive:

    TextDelta            more text
    ToolCallRequested    a tool call; `finish_reason` is then tool_calls
    Finished             the last part: finish reason, model and token usage

A reader may stop at any time, by cancellation or with `aclose()`. Either one returns after the model has closed its
resources, such as the connection to its endpoint.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

from petiole.events.catalog.llm import FinishReason, GeneratedResponse, ModelToolCall, Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.content import Value
from petiole.events.texts import is_blank, join_surrogates

_CHARACTERS_PER_TOKEN = 4
"""For English text. Source: OpenAI's page about its tokenizer."""

MAX_ANSWER_LENGTH = 4_194_304
"""The most characters of an answer, which has to fit into an event; more than any model writes."""

MAX_CALLS = 1_000
"""The most tool calls of an answer: as many as one delivery may publish."""

_NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallRequested:
    """A tool call that the model requests."""

    tool: str
    arguments: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last part of an answer."""

    model: str
    usage: Usage = _NO_USAGE
    finish_reason: FinishReason = "stop"


ResponsePart: TypeAlias = TextDelta | ToolCallRequested | Finished


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A tool that a model may call; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object]


@runtime_checkable
class LanguageModel(Protocol):
    """A language model. Each worker process creates one instance, which several handlers may use concurrently.

    An attribute `model` names the model that it requests, for traces; without one, `name` does.
    """

    name: str

    def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Generate the answer to one request; an `async def` with `yield` is the simplest form.

        Raises, during iteration:
            ProviderUnavailable: The same request may succeed later.
            ProviderRefused: The same request would fail again.
        """
        ...


@dataclass(slots=True)
class ResponseBuilder:
    """Collects the parts of an answer."""

    text: str = ""
    calls: list[ModelToolCall] = field(default_factory=list)
    finished: Finished | None = None
    _half: str = ""

    def add(self, part: ResponsePart) -> None:
        """Add the next part. Raises ValueError or TypeError if an event cannot hold it, or the answer is too long."""
        match part:
            case TextDelta():
                self._add_text(part.text)
            case ToolCallRequested():
                self.calls.append(ModelToolCall(tool=part.tool, arguments=dict(part.arguments)))
                if len(self.calls) > MAX_CALLS:
                    raise ValueError(f"it has more than {MAX_CALLS:,} tool calls")
            case Finished(model=str(), usage=Usage()):
                self.text += join_surrogates(self._half)
                # Parsed again, because a usage that was made by `model_construct` may hold any number.
                self.finished = replace(part, usage=Usage.model_validate(part.usage.model_dump()))
            case _:
                raise TypeError(f"it has a {type(part).__name__}, which is no part of an answer")

    def _add_text(self, text: str) -> None:
        """Add text. Providers split it anywhere, also between the two surrogates of one character."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        whole = text.removesuffix(self._half)
        self.text += join_surrogates(whole)
        if len(self.text) > MAX_ANSWER_LENGTH:
            raise ValueError(f"it has more than {MAX_ANSWER_LENGTH:,} characters")

    def build(self, model: str, request: ModelRequest) -> GeneratedResponse:
        """Build the response. Without a `Finished` part it counts as interrupted, and its usage is estimated."""
        if self.finished is None:
            usage = estimate_usage(request, self.text)
            return GeneratedResponse(text=self.text, model=model, usage=usage, finish_reason="interrupted")
        finished = self.finished
        # A model may call tools although the request offered none.
        calls = tuple(self.calls) if request.may_call_tools else ()
        text = "" if is_blank(self.text) else self.text
        reason = "stop" if finished.finish_reason == "tool_calls" else finished.finish_reason
        return GeneratedResponse(
            text=text,
            model=finished.model,
            usage=finished.usage,
            finish_reason="tool_calls" if calls else reason,
            calls=calls,
        )


def estimate_usage(request: ModelRequest, text: str) -> Usage:
    """Estimate the token usage of an answer whose provider did not report it."""
    inputs = [request.text, request.summary, *(item.text for item in (*request.turns, *request.context))]
    inputs += [*request.facts, *request.notes, *(answer.text for answer in request.tools)]
    return Usage(
        input_tokens=_estimate_tokens(sum(map(len, inputs))),
        output_tokens=_estimate_tokens(len(text)),
        is_estimate=True,
    )


def _estimate_tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)
