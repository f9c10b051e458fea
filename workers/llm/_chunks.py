"""Parse the chunks of OpenAI's chat completions into parts of an answer.

Endpoints keep to the protocol in their own ways, and proxies change it again, so nothing but the text and the calls has
to be there: a chunk may be null or lack `choices`, `delta` or `index`; a refusal is the text; an answer that was not
streamed is read as one chunk. Refused is only an answer with neither text nor call. One that breaks off is tried again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from petiole.events.catalog.llm import FinishReason, Usage
from petiole.events.errors import ProviderRefused, ProviderUnavailable
from petiole.events.texts import join_surrogates, safe_text
from petiole.workers.llm._call_fragments import CallFragments, text_of
from petiole.workers.llm._server_events import Document
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta

# Of the statuses from 400 to 499, only these are temporary.
_RETRYABLE_STATUSES: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)

_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "refusal": "content_filter",
}
"""By the lower-case word; any other word is `stop`."""

_BROKEN_REASONS: Final = {"error", "abort", "aborted", "insufficient_system_resource", "malformed_function_call"}
"""Finish reasons of an answer that the endpoint gave up: OpenRouter, vLLM, DeepSeek, Gemini."""

_MAX_COUNT: Final = 2**53
_MAX_MODEL_LENGTH: Final = 200


class ChunkParser:
    """Parses the chunks of one answer. `tools` maps the names of tools that were sent to their own names."""

    def __init__(self, provider: str, model: str, tools: Mapping[str, str] = MappingProxyType({})) -> None:
        self._provider = provider
        self._model = model
        self._usage = Usage()
        self._calls = CallFragments(provider, tools)
        self._choice: object = None
        self._finish_reason = ""
        self._has_text = False
        self._has_ended = False
        self._is_whole = False
        self._is_error = False

    def read(self, document: Document) -> Iterator[ResponsePart]:
        """Parse one chunk. Raises ProviderRefused, ProviderUnavailable."""
        match document:
            case "done":
                self._has_ended = True
            case "whole":
                self._is_whole = True
            case "error":
                self._is_error = True
            case "broken":
                raise ProviderUnavailable(self._provider, "its answer has a chunk that breaks off")
            case _:
                yield from self._read_chunk(document)

    def finish(self) -> Iterator[ResponsePart]:
        """Yield the tool calls and the last part.

        Raises:
            ProviderUnavailable: The answer ended early, or a tool call cannot be parsed.
            ProviderRefused: The answer has neither text nor tool calls.
        """
        if self._is_error:
            raise ProviderUnavailable(self._provider, "its answer ended with an error")
        if not (self._finish_reason or self._has_ended):
            raise ProviderUnavailable(self._provider, "its answer ended early, without a finish reason")
        calls = list(self._calls.finish())
        if not calls and not self._has_text:
            reason = safe_text(self._finish_reason, _MAX_MODEL_LENGTH) or "none"
            raise ProviderRefused(self._provider, f"its answer is empty (finish reason {reason})")
        yield from calls
        reason = "tool_calls" if calls else _FINISH_REASONS.get(self._finish_reason.lower(), "stop")
        yield Finished(model=self._model, usage=self._usage, finish_reason=reason)

    def _read_chunk(self, chunk: Mapping[str, object]) -> Iterator[ResponsePart]:
        if error := chunk.get("error") or (chunk if self._is_error else None):
            raise self._stream_error(error)
        if model := text_of(chunk.get("model")):
            self._model = safe_text(join_surrogates(model), _MAX_MODEL_LENGTH)
        self._read_usage(chunk.get("usage"), _field(chunk.get("x_groq"), "usage"))
        for choice in _items_of(chunk.get("choices")):
            # Only one choice is asked for, whatever number it has.
            if isinstance(choice, Mapping) and choice.get("index", 0) == self._number_of_choice(choice):
                yield from self._read_choice(choice)

    def _number_of_choice(self, choice: Mapping[str, object]) -> object:
        if self._choice is None:
            self._choice = choice.get("index", 0)
        return self._choice

    def _read_choice(self, choice: Mapping[str, object]) -> Iterator[ResponsePart]:
        self._read_usage(choice.get("usage"))
        reason = text_of(choice.get("finish_reason"))
        if reason.lower() in _BROKEN_REASONS:
            raise self._stream_error(choice.get("error") or f"finish reason {reason}")
        self._finish_reason = reason or self._finish_reason
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            # An answer that was not streamed has a message; that of the older protocol has a text.
            delta = choice.get("message")
            delta = delta if isinstance(delta, Mapping) else {"content": choice.get("text")}
            self._has_ended = self._has_ended or self._is_whole
        for fragment in (*_items_of(delta.get("tool_calls")), delta.get("function_call")):
            self._calls.add(fragment)
        text = "".join((*_texts_in(delta.get("content")), text_of(delta.get("refusal"))))
        if text:
            self._has_text = self._has_text or not text.isspace()
            yield TextDelta(text)

    def _read_usage(self, *reports: object) -> None:
        """Take the latest report, because some endpoints report the sum so far in every chunk."""
        for usage in reports:
            read = _count(usage, "prompt_tokens", "input_tokens")
            written = _count(usage, "completion_tokens", "output_tokens")
            if read or written:
                self._usage = Usage(input_tokens=read, output_tokens=written)

    def _stream_error(self, error: object) -> ProviderUnavailable | ProviderRefused:
        code, message = _field(error, "code"), _field(error, "message")
        reason = safe_text(join_surrogates(message) if isinstance(message, str) and message else error, 500)
        status = int(code) if isinstance(code, int | str) and str(code).isdecimal() and len(str(code)) == 3 else 0  # noqa: PLR2004 - HTTP's length
        error_class = ProviderRefused if status and not is_retryable_status(status) else ProviderUnavailable
        return error_class(self._provider, f"its answer ended with an error, {reason}")


def is_retryable_status(status: int) -> bool:
    """Return whether a request that was answered with this status, 400 or above, may succeed later."""
    return status in _RETRYABLE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _items_of(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None


def _texts_in(content: object) -> Iterator[str]:
    """Yield the text of a content: text, a number, or a list of parts, of which the others are thoughts."""
    for part in _items_of(content):
        match part:
            case str():
                yield part
            case bool():
                pass
            case int() | float():
                yield str(part)
            case {"text": str(text)}:
                yield text


def _count(usage: object, *names: str) -> int:
    """Read a number of tokens, which may be missing, null, a fraction, text, or nonsense."""
    for name in names:
        value = _field(usage, name)
        if isinstance(value, str) and value.isdecimal() and len(value) < 17:  # noqa: PLR2004 - the digits of 2**53
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MAX_COUNT:
            return int(value)
    return 0
