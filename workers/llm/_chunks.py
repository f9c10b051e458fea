"""Parse the chunks of OpenAI's chat completions into parts of an answer.

The client library does not validate chunks, which may come from a proxy. The fields that Petiole uses are validated
here. The arguments of a tool call arrive in fragments of JSON; the complete calls are yielded at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from petiole.events.catalog.llm import FinishReason, Usage
from petiole.events.content import Count, read_value
from petiole.events.errors import ProviderRefused, ProviderUnavailable
from petiole.workers.llm.provider import MAX_ANSWER_LENGTH, Finished, ResponsePart, TextDelta, ToolCallRequested

_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChunkParser:
    """Parses the chunks of one answer. `tools` maps encoded tool names to their original names."""

    def __init__(self, provider: str, model: str, tools: Mapping[str, str] = MappingProxyType({})) -> None:
        self._provider = provider
        self._tools = tools
        self._model = model
        self._usage = Usage()
        self._calls: dict[int, _PartialCall] = {}
        self._calls_length = 0
        self._finish_reason: str | None = None
        self._has_text = False

    def read(self, chunk: object) -> Iterator[ResponsePart]:
        """Parse one chunk. Raises ProviderRefused."""
        try:
            chunk = _Chunk.model_validate(chunk)
        except ValidationError as error:
            raise ProviderRefused(self._provider, f"its answer is invalid ({_error_location(error)})") from error
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = Usage(input_tokens=chunk.usage.prompt_tokens, output_tokens=chunk.usage.completion_tokens)
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            for fragment in choice.delta.tool_calls or []:
                self._add_to_call(fragment)
            if choice.delta.content:
                self._has_text = True
                yield TextDelta(choice.delta.content)

    def finish(self) -> Iterator[ResponsePart]:
        """Yield the tool calls and the last part.

        Raises:
            ProviderUnavailable: The stream ended early, or a tool call cannot be parsed.
            ProviderRefused: The answer has neither text nor tool calls.
        """
        if self._finish_reason is None:
            raise ProviderUnavailable(self._provider, "its answer ended early, without a finish reason")
        for call in self._calls.values():
            yield self._tool_call_requested(call)
        reason = "tool_calls" if self._calls else _FINISH_REASONS.get(self._finish_reason, "stop")
        if not self._calls and (not self._has_text or reason == "tool_calls"):
            raise ProviderRefused(self._provider, f"its answer is empty (finish reason {self._finish_reason})")
        yield Finished(model=self._model, usage=self._usage, finish_reason=reason)

    def _add_to_call(self, fragment: _ToolCall) -> None:
        self._calls.setdefault(fragment.index, _PartialCall()).add(fragment.function)
        self._calls_length += 1 + len(fragment.function.name or "") + len(fragment.function.arguments or "")
        if self._calls_length > MAX_ANSWER_LENGTH:
            raise ProviderRefused(self._provider, f"its tool calls have more than {MAX_ANSWER_LENGTH:,} characters")

    def _tool_call_requested(self, call: _PartialCall) -> ToolCallRequested:
        try:
            arguments = read_value(json.loads(call.arguments or "{}"))
        except ValueError as error:
            raise self._invalid_call(call, str(error)) from error
        if not call.name or not isinstance(arguments, dict):
            raise self._invalid_call(call, "it needs a name and an object of arguments")
        return ToolCallRequested(self._tools.get(call.name, call.name), arguments)

    def _invalid_call(self, call: _PartialCall, reason: str) -> ProviderUnavailable:
        # Retryable, because a model samples its answer and the next one may be valid.
        return ProviderUnavailable(self._provider, f"its call of {call.name or 'a tool'} cannot be parsed ({reason})")


class _PartialCall:
    """A tool call that is not complete yet."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments = ""

    def add(self, fragment: _Function) -> None:
        self.name += fragment.name or ""
        self.arguments += fragment.arguments or ""


class _ResponseModel(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Function(_ResponseModel):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(_ResponseModel):
    index: int = 0
    function: _Function


class _Delta(_ResponseModel):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _ChunkChoice(_ResponseModel):
    delta: _Delta
    finish_reason: str | None = None


class _Usage(_ResponseModel):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Chunk(_ResponseModel):
    choices: list[_ChunkChoice]  # empty in the chunk with the usage
    model: str | None = None
    usage: _Usage | None = None


def _error_location(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(step) for step in first['loc']) or 'body'}: {first['msg'].lower()}"
