"""What comes from an endpoint that speaks chat completions: chunks of a stream, read as parts of an answer.

The client hands on whatever came, be it of a proxy: only what is used is read, and checked. A call's arguments come
in pieces, as text; they are put together, and handed on at the end.
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
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolCallRequested

_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChunkParser:
    """Reads the chunks of one answer; `tools` has the names of those that were sent under others."""

    def __init__(self, provider: str, model: str, tools: Mapping[str, str] = MappingProxyType({})) -> None:
        self._provider = provider
        self._tools = tools
        self._model = model
        self._usage = Usage()
        self._calls: dict[int, _PartialCall] = {}
        self._finish_reason: str | None = None
        self._has_text = False

    def read(self, chunk: object) -> Iterator[ResponsePart]:
        """Read one chunk. Raises ProviderRefused."""
        try:
            chunk = _Chunk.model_validate(chunk)
        except ValidationError as error:
            raise ProviderRefused(self._provider, f"what it sent is no answer ({_error_location(error)})") from error
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = Usage(input_tokens=chunk.usage.prompt_tokens, output_tokens=chunk.usage.completion_tokens)
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            for piece in choice.delta.tool_calls or []:
                self._calls.setdefault(piece.index, _PartialCall()).add(piece.function)
            if choice.delta.content:
                self._has_text = True
                yield TextDelta(choice.delta.content)

    def finish(self) -> Iterator[ResponsePart]:
        """Hand on what comes last. Raises: ProviderUnavailable where the end is missing, ProviderRefused."""
        if self._finish_reason is None:
            raise ProviderUnavailable(self._provider, "its answer broke off before its end")
        for call in self._calls.values():
            yield self._tool_call_requested(call)
        reason = "tool_calls" if self._calls else _FINISH_REASONS.get(self._finish_reason, "stop")
        if not self._calls and (not self._has_text or reason == "tool_calls"):
            raise ProviderRefused(self._provider, f"what it sent is no answer (no text, {self._finish_reason})")
        yield Finished(model=self._model, usage=self._usage, finish_reason=reason)

    def _tool_call_requested(self, call: _PartialCall) -> ToolCallRequested:
        try:
            arguments = read_value(json.loads(call.arguments or "{}"))
        except ValueError as error:
            raise self._invalid_call(call, str(error)) from error
        if not call.name or not isinstance(arguments, dict):
            raise self._invalid_call(call, "a name and an object are needed")
        return ToolCallRequested(self._tools.get(call.name, call.name), arguments)

    def _invalid_call(self, call: _PartialCall, reason: str) -> ProviderUnavailable:
        # Another try may well word it right: models draw their words.
        return ProviderUnavailable(self._provider, f"its call of {call.name or 'a tool'} cannot be read ({reason})")


class _PartialCall:
    """A call as far as it has come."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments = ""

    def add(self, piece: _Function) -> None:
        self.name += piece.name or ""
        self.arguments += piece.arguments or ""


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
    choices: list[_ChunkChoice]  # empty in the chunk that tells the usage
    model: str | None = None
    usage: _Usage | None = None


def _error_location(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(step) for step in first['loc']) or 'body'}: {first['msg'].lower()}"
