"""Tool: the description, validation and call of a tool, whether it is a function or belongs to an MCP server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pydantic_core import to_json

from petiole.events.catalog.memory import MemoryItem
from petiole.events.content import Value, read_value
from petiole.events.errors import PetioleError, ToolFailed, error_type_of, tool_timeout
from petiole.events.texts import error_text, safe_text
from petiole.tasks import guarded
from petiole.tasks.handling.time_limits import TimeLimitReached, call_within, time_limit
from petiole.tasks.settlement.exits import is_shutdown
from petiole.workers.tools.tool_policy import ToolPolicy

MAX_RESULT_TEXT_LENGTH = 100_000
"""The most characters of a tool's result that a model reads."""


MAX_CHECK_S = 5.0
"""How long the validation of a call's arguments may take."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool can use while it runs.

    Attributes:
        report: `report(percent, note)` reports progress, from 0 to 100.
        recall: `recall(query, limit)` finds memories of this stream, best first; the latest if the query is empty.
    """

    stream_id: str
    report: Callable[[float, str], None]
    recall: Callable[[str, int], Sequence[MemoryItem]]


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The result of a tool: a value, and the same as text that fits into a sentence."""

    value: Value
    text: str


ValidatedArguments: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: its description for models, and how it is called.

    Attributes:
        schema: The JSON Schema of the arguments.
        validate: Validates arguments and converts them for `run`. Raises UsageError (invalid_arguments).
        run: Runs the tool in the calling thread. May raise any error.
    """

    name: str
    description: str
    schema: Mapping[str, object]
    validate: Callable[[Mapping[str, Value]], ValidatedArguments]
    run: Callable[[ValidatedArguments, ToolContext], object]
    policy: ToolPolicy

    def call(self, arguments: Mapping[str, Value], context: ToolContext) -> ToolOutput:
        """Validate the arguments and run the tool within its time limit.

        tasks/handling/time_limits.py lists what a time limit cannot interrupt.

        Raises:
            UsageError: The arguments are invalid (invalid_arguments).
            ToolFailed: The tool raised an error, or its result cannot be part of an event.
            Retryable: The tool exceeded its time limit (tool_timeout).
            ServiceUnavailable: The circuit of the tool is open.
            PetioleError: The tool raised this error itself.
        """
        validated = self.check(arguments)
        try:
            with self._breaker(), time_limit(self.policy.timeout_s):
                result = call_within(self.policy.timeout_s, partial(self.run, validated, context))
        except TimeLimitReached as error:
            raise tool_timeout(self.name, self.policy.timeout_s) from error
        except PetioleError:
            raise
        except BaseException as error:
            if is_shutdown(error):
                raise
            # A tool may be third-party code, and the user needs an answer after any error, also after `sys.exit()`.
            raise ToolFailed(self.name, f"{error_type_of(error)}: {error_text(error)}") from error
        return self._output(result)

    def check(self, arguments: Mapping[str, Value]) -> ValidatedArguments:
        """Validate arguments. Raises UsageError (invalid_arguments), ToolFailed if the schema cannot be applied."""
        try:
            # A schema of a server may take for ever, such as by its patterns.
            return call_within(min(MAX_CHECK_S, self.policy.timeout_s), partial(self.validate, arguments))
        except PetioleError:
            raise
        except TimeLimitReached as error:
            raise ToolFailed(self.name, f"its arguments were not validated within {MAX_CHECK_S:g} s") from error
        except Exception as error:
            raise ToolFailed(self.name, f"its arguments cannot be validated: {error_text(error)}") from error

    def _breaker(self) -> AbstractContextManager[object]:
        # As a block, `guarded` does not retry; a retry could repeat the tool's effects.
        breaker = self.policy.breaker
        return nullcontext() if breaker is None else guarded(breaker, timeout=self.policy.timeout_s)

    def _output(self, result: object) -> ToolOutput:
        try:
            value = read_value(result.value if isinstance(result, ToolOutput) else result)
        except ValueError as error:
            raise ToolFailed(self.name, f"its result {error_text(error)}") from error
        text = result.text if isinstance(result, ToolOutput) else _value_text(value)
        return ToolOutput(value, safe_text(text, MAX_RESULT_TEXT_LENGTH))


def _value_text(value: Value) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
