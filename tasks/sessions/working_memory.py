"""Working memory: JSON values of one session, which all handlers share as long as it lasts.

    memory = context.session.memory
    memory.increment("turns")
    memory.update({"topic": "tea", "wish": {"cups": 2}})
    memory.get("topic")

Each call is one step of the server: values change whole, together or not at all, however many change them at once. They
change when it is said, not when the handler has succeeded: a handler that is run again increments again. What must be
counted once belongs into `context.state`, or under a name of its own for each delivery.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from petiole.events.content import ParametersContent, Value
from petiole.events.errors import invalid_working_memory, working_memory_full
from petiole.tasks.sessions.errors import asking_for, session_ended_error

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.sessions import Sessions

ResultT = TypeVar("ResultT", bound=tuple[Any, Any])

_INT64 = 2**63


class WorkingMemory:
    """The working memory of a session, which is made where there is none and something is to be kept.

    Every call raises BrokerUnavailable where the state store is away.
    """

    def __init__(self, bus: BusRuntime, session_id: str) -> None:
        self._bus = bus
        self._id = session_id

    def all(self) -> dict[str, Value]:
        """Read all values, by name."""
        with self._bus.state_store_access(asking_for(self._id)):
            texts = self._store.memory(self._id)
        return ParametersContent.model_validate(
            {"parameters": {name: json.loads(texts[name]) for name in texts}}
        ).parameters

    def get(self, name: str, default: Value = None) -> Value:
        """Read a value."""
        return self.all().get(name, default)

    def set(self, name: str, value: Value) -> None:
        """Set a value. Raises as `update`."""
        self.update({name: value})

    def update(self, values: Mapping[str, Value]) -> None:
        """Set several values, all or none.

        Raises: UsageError (working_memory_full, invalid_working_memory) for what is no JSON, SessionEnded; all values
        are then what they were.
        """
        self._put({name: json.dumps(value, ensure_ascii=False) for name, value in self._encode_values(values).items()})

    def remove(self, names: Iterable[str]) -> None:
        """Forget values, those that there are. Raises SessionEnded."""
        self._put(dict.fromkeys(names, ""))

    def increment(self, name: str, by: int = 1) -> int:
        """Let a whole number grow, from 0 where there is none; returns the new one. Raises as `update`."""
        if type(by) is not int or not -_INT64 <= by < _INT64:
            raise invalid_working_memory(self._id, name, f"cannot grow by {by!r}; give a whole number")
        outcome, told = self._in_session(lambda: self._store.count(self._id, name, by))
        if outcome == "not_a_number":
            reason = (
                f"holds {told[:60] or 'too large a number'}, which cannot grow by {by}; set it to a whole number first"
            )
            raise invalid_working_memory(self._id, name, reason)
        if outcome != "stored":
            self._raise_refusal(outcome, int(told or 0))
        return int(told)

    def _put(self, texts: Mapping[str, str]) -> None:
        if not texts:
            return
        outcome, size = self._in_session(lambda: self._store.put(self._id, texts))
        if outcome != "stored":
            self._raise_refusal(outcome, size)

    def _in_session(self, operation: Callable[[], ResultT]) -> ResultT:
        with self._bus.state_store_access(asking_for(self._id)):
            done = operation()
            if done[0] == "not_found":
                self._store.record_event(self._id)
                done = operation()
        return done

    @property
    def _store(self) -> Sessions:
        return self._bus.stores.sessions

    def _raise_refusal(self, outcome: str, size_bytes: int) -> NoReturn:
        if outcome == "full":
            raise working_memory_full(self._id, size_bytes, self._bus.settings.max_session_memory_bytes)
        raise session_ended_error(self._id, self._store.get(self._id) if outcome == "ended" else None)

    def _encode_values(self, values: Mapping[str, Value]) -> dict[str, object]:
        try:
            content = ParametersContent(parameters=dict(values))
        except ValidationError as error:
            raise invalid_working_memory(self._id, ", ".join(map(str, values)), error.errors()[0]["msg"]) from error
        written: dict[str, object] = content.model_dump(mode="json")["parameters"]
        return written
