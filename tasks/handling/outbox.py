"""The outbox of a delivery: the events that its handler published, kept until the handler has succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field

from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.stores.delayed_messages import DelayedMessage


@dataclass(slots=True)
class Outbox:
    """The events and state changes of a running handler; all are committed when it has succeeded.

    `finished_operations` has how often the handler finished an operation, by name. An operation that failed and is
    begun again in the same attempt has the same number again, so that the numbers are the same in every attempt.
    """

    events: list[ValidatedEvent] = field(default_factory=list)
    delayed: list[DelayedMessage] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    suppressed_count: int = 0
    count: int = 0
    finished_operations: dict[str, int] | None = None

    def number_operation(self, name: str) -> int:
        """Return the number of the operation of this name that is next in this attempt, from 1."""
        return (self.finished_operations or {}).get(name, 0) + 1

    def count_operation(self, name: str) -> None:
        """Count an operation that has finished."""
        self.finished_operations = self.finished_operations or {}
        self.finished_operations[name] = self.number_operation(name)

    @property
    def size(self) -> int:
        """The number of events."""
        return len(self.events) + len(self.delayed)

    def suppress(self) -> None:
        """Drop all contents and record how many events there were."""
        self.suppressed_count = self.size
        self.events.clear()
        self.delayed.clear()
        self.state.clear()
