"""A tool: what a caller has to know of it, and how one call of it is made, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pydantic_core import to_json

from petiole.events.catalog.memory import Recollection
from petiole.events.content import Value, read_value
from petiole.events.errors import PetioleError, ToolFailed, tool_timeout
from petiole.tasks import guarded
from petiole.tasks.handling.time_limits import Overdue, call_within, time_limit
from petiole.workers.tools.tool_policy import Terms


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may ask for while it runs.

    `report(percent, note)` tells how far it is, from 0 to 100; `recall(query, limit)` looks up what was said
    before in this stream, best first, or the latest where the query has no words.
    """

    stream_id: str
    report: Callable[[float, str], None]
    recall: Callable[[str, int], Sequence[Recollection]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a tool found: as a value, and in words that make a sentence."""

    value: Value
    text: str


Accepted: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model is told of a tool, and how it is called.

    schema: the JSON Schema of its arguments.
    accept: checks arguments and returns them as `run` takes them. Raises UsageError (invalid_arguments).
    run: does it, in the thread that asks. May raise anything.
    """

    name: str
    description: str
    schema: Mapping[str, object]
    accept: Callable[[Mapping[str, Value]], Accepted]
    run: Callable[[Accepted, ToolContext], object]
    terms: Terms

    def call(self, arguments: Mapping[str, Value], context: ToolContext) -> Finding:
        """Check the arguments and run it, within its time limit.

        Raises: UsageError (invalid_arguments), ToolFailed, Retryable (tool_timeout), ServiceUnavailable where its
        circuit is open, and ours that it raises. What cannot be ended in time is told in tasks/handling/time_limits.py.
        """
        accepted = self.accept(arguments)
        try:
            with self._guard(), time_limit(self.terms.timeout_s):
                found = call_within(self.terms.timeout_s, partial(self.run, accepted, context))
        except Overdue as overdue:
            raise tool_timeout(self.name, self.terms.timeout_s) from overdue
        except PetioleError:
            raise
        except Exception as error:
            # A tool may be anyone's code: whatever it raises, the user is owed an answer.
            raise ToolFailed(self.name, f"{type(error).__name__}: {error}") from error
        return self._finding(found)

    def _guard(self) -> AbstractContextManager[object]:
        # The block is not tried again, unlike a guarded function: a tool may have acted.
        guard = self.terms.guard
        return nullcontext() if guard is None else guarded(guard, timeout=self.terms.timeout_s)

    def _finding(self, found: object) -> Finding:
        value = found.value if isinstance(found, Finding) else found
        try:
            checked = read_value(value)
        except ValueError as error:
            raise ToolFailed(self.name, f"its result {error}") from error
        return Finding(checked, found.text if isinstance(found, Finding) else _in_words(checked))


def _in_words(value: Value) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
