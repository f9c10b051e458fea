"""Put the tool calls of an answer together from the fragments in which an endpoint streams them.

The protocol numbers calls by `index`, and gives id and name once. Endpoints leave out the index, give several calls the
same one, repeat id and name in every fragment, or send the arguments as an object instead of text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from petiole.events.content import Value, read_value
from petiole.events.errors import ProviderRefused, ProviderUnavailable
from petiole.events.texts import join_surrogates
from petiole.workers.llm.provider import MAX_ANSWER_LENGTH, MAX_CALLS, ToolCallRequested

_NAMESPACES: Final = ("functions.", "default_api.", "default_api:")
"""What some models write before the name of a tool, because the prompt of their training did."""


@dataclass(slots=True)
class _PartialCall:
    """A tool call that is not complete yet."""

    key: int | None
    call_id: str
    name: str = ""
    arguments: str = ""

    @property
    def has_whole_arguments(self) -> bool:
        try:
            return isinstance(json.loads(self.arguments, strict=False), dict)
        except (ValueError, RecursionError):
            return False


class CallFragments:
    """The tool calls of one answer. `tools` maps the names that were sent to the names of the tools."""

    def __init__(self, provider: str, tools: Mapping[str, str]) -> None:
        self._provider = provider
        self._tools = tools
        self._calls: list[_PartialCall] = []
        self._length = 0

    def add(self, fragment: object) -> None:
        """Add one element of `tool_calls`, or a `function_call`. Raises ProviderRefused if the calls are too long."""
        if not isinstance(fragment, Mapping):
            return
        function = fragment.get("function")
        function = function if isinstance(function, Mapping) else fragment
        name, arguments = text_of(function.get("name")).strip(), _arguments_text(function.get("arguments"))
        if not (name or arguments):
            return
        call = self._find_call(fragment, name) or self._begin_call(fragment)
        if name and name != call.name:
            call.name = self._extend_name(call.name, name)
        call.arguments += arguments
        self._length += 1 + len(name) + len(arguments)
        if self._length > MAX_ANSWER_LENGTH:
            raise ProviderRefused(self._provider, f"its tool calls have more than {MAX_ANSWER_LENGTH:,} characters")
        if len(self._calls) > MAX_CALLS:
            raise ProviderRefused(self._provider, f"it has more than {MAX_CALLS:,} tool calls")

    def finish(self) -> Iterator[ToolCallRequested]:
        """Yield the calls in their order. Raises ProviderUnavailable if one cannot be parsed."""
        for call in self._calls:
            name = join_surrogates(call.name)
            try:
                arguments = read_value(_parse_arguments(join_surrogates(call.arguments)))
            except (ValueError, RecursionError) as error:
                raise self._invalid_call(call, str(error)) from error
            if not name or not isinstance(arguments, dict):
                raise self._invalid_call(call, "it needs a name and an object of arguments")
            yield ToolCallRequested(self._original_name(name), arguments)

    def _find_call(self, fragment: Mapping[str, object], name: str) -> _PartialCall | None:
        """Find the call that a fragment continues."""
        key, call_id = _index_of(fragment), text_of(fragment.get("id"))
        candidates = self._calls if key is None else [call for call in self._calls if call.key == key]
        if not candidates:
            return None
        call = candidates[-1]
        if call_id and call.call_id and call_id != call.call_id:
            # Another id under the same index is another call, which an earlier fragment may have begun.
            return next((earlier for earlier in reversed(candidates) if earlier.call_id == call_id), None)
        is_new = bool(name) and call.has_whole_arguments and not (call_id and call_id == call.call_id)
        return None if is_new else call

    def _begin_call(self, fragment: Mapping[str, object]) -> _PartialCall:
        self._calls.append(_PartialCall(_index_of(fragment), text_of(fragment.get("id"))))
        return self._calls[-1]

    def _extend_name(self, begun: str, name: str) -> str:
        """Names come whole, whole in each fragment, or in pieces."""
        return (
            name
            if begun + name not in self._tools and (name in self._tools or name.startswith(begun))
            else begun + name
        )

    def _original_name(self, name: str) -> str:
        for prefix in ("", *_NAMESPACES):
            if name.startswith(prefix) and name.removeprefix(prefix) in self._tools:
                return self._tools[name.removeprefix(prefix)]
        return name

    def _invalid_call(self, call: _PartialCall, reason: str) -> ProviderUnavailable:
        # Retryable, because a model samples its answer and the next one may be valid.
        name = join_surrogates(call.name) or "a tool"
        return ProviderUnavailable(self._provider, f"its call of {name} cannot be parsed ({reason})")


def _index_of(fragment: Mapping[str, object]) -> int | None:
    index = fragment.get("index")
    if isinstance(index, str) and index.isdecimal():
        return int(index)
    return index if isinstance(index, int) else None


def text_of(value: object) -> str:
    """Return a value that is text; "" for anything else."""
    return value if isinstance(value, str) else ""


def _arguments_text(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments)


def _parse_arguments(text: str) -> Value | object:
    value: object = json.loads(text, strict=False) if text.strip() else {}
    if isinstance(value, str) and value.strip().startswith("{"):  # encoded twice
        value = json.loads(value, strict=False)
    return {} if value is None else value
