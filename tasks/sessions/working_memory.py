"""Working memory: JSON values of one session, which all of its handlers share until it ends.

    memory = context.session.memory
    memory.increment("turns")
    memory.update({"topic": "tea", "wish": {"cups": 2}})
    memory.get("topic")

Each call is atomic in the state store, also with concurrent callers. A change takes effect at once, not when the
handler succeeds, so a retried handler increments again. To count exactly once, use `context.state`, or a name per
delivery.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from pydantic import Field, ValidationError

from petiole.events.arguments import checks_arguments
from petiole.events.content import ParametersContent, Value
from petiole.events.errors import invalid_working_memory, working_memory_full
from petiole.events.errors.base import describe
from petiole.tasks.sessions.errors import lookup_operation, session_ended_error

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.sessions import Sessions

ResultT = TypeVar("ResultT", bound=tuple[Any, Any])

_INT64 = 2**63
_Name = Annotated[str, Field(min_length=1)]
_Names = list[_Name] | tuple[_Name, ...] | set[_Name] | frozenset[_Name]


class WorkingMemory:
    """The working memory of a session. Setting a value creates the session if it does not exist.

    Every call raises BrokerUnavailable if the state store does not answer.
    """

    def __init__(self, bus: BusRuntime, session_id: str) -> None:
        self._bus = bus
        self._id = session_id

    def all(self) -> dict[str, Value]:
        """Return all values, by name."""
        with self._bus.state_store_access(lookup_operation(self._id)):
            texts = self._store.memory(self._id)
        return ParametersContent.model_validate(
            {"parameters": {name: json.loads(texts[name]) for name in texts}}
        ).parameters

    @checks_arguments(name=_Name)
    def get(self, name: str, default: Value = None) -> Value:
        """Return a value, or `default`."""
        return self.all().get(name, default)

    @checks_arguments(name=_Name)
    def set(self, name: str, value: Value) -> None:
        """Set a value. Raises as `update`."""
        self.update({name: value})

    def update(self, values: Mapping[str, Value]) -> None:
        """Set several values, all or none. If it raises, no value has changed.

        Raises:
            UsageError: (working_memory_full) the values are too large together; (invalid_working_memory) a value is not
                JSON.
            SessionEnded: The session has ended.
        """
        self._put({name: json.dumps(value, ensure_ascii=False) for name, value in self._encode_values(values).items()})

    @checks_arguments(names=_Names)
    def remove(self, names: Collection[str]) -> None:
        """Delete values; unknown names are ignored. Raises SessionEnded."""
        self._put(dict.fromkeys(names, ""))

    @checks_arguments(name=_Name)
    def increment(self, name: str, by: int = 1) -> int:
        """Add to an integer, which is 0 if it does not exist; returns the new value. Raises as `update`."""
        if type(by) is not int or not -_INT64 <= by < _INT64:
            raise invalid_working_memory(self._id, name, f"cannot be incremented by {by!r}; give an integer of 64 bits")
        outcome, value = self._in_session(lambda: self._store.count(self._id, name, by))
        if outcome == "not_a_number":
            current = value[:60] or "too large a number"
            reason = f"is {current} and cannot be incremented by {by}; set it to an integer first"
            raise invalid_working_memory(self._id, name, reason)
        if outcome != "stored":
            self._raise_refusal(outcome, int(value or 0))
        return int(value)

    def _put(self, texts: Mapping[str, str]) -> None:
        if not texts:
            return
        outcome, size = self._in_session(lambda: self._store.put(self._id, texts))
        if outcome != "stored":
            self._raise_refusal(outcome, size)

    def _in_session(self, operation: Callable[[], ResultT]) -> ResultT:
        with self._bus.state_store_access(lookup_operation(self._id)):
            result = operation()
            if result[0] == "not_found":
                self._store.record_event(self._id)
                result = operation()
        return result

    @property
    def _store(self) -> Sessions:
        return self._bus.stores.sessions

    def _raise_refusal(self, outcome: str, size_bytes: int) -> NoReturn:
        if outcome == "full":
            raise working_memory_full(self._id, size_bytes, self._bus.settings.max_session_memory_bytes)
        raise session_ended_error(self._id, self._store.get(self._id) if outcome == "ended" else None)

    def _encode_values(self, values: object) -> dict[str, object]:
        try:
            content = ParametersContent.model_validate({"parameters": values})
        except ValidationError as error:
            named = ", ".join(map(describe, values)) if isinstance(values, Mapping) else describe(values)
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise invalid_working_memory(self._id, named, reason) from error
        encoded: dict[str, object] = content.model_dump(mode="json")["parameters"]
        return encoded
