"""The outbox of a delivery: the events that its handler published, kept until the handler has succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field

from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.stores.delayed_messages import DelayedMessage


@dataclass(slots=True)
class Outbox:
    """The events and state changes of a running handler; all are committed when it has succeeded.

    `operation_counts` has how often the handler began an operation, by name: its number is the same in every attempt.
    """

    events: list[ValidatedEvent] = field(default_factory=list)
    delayed: list[DelayedMessage] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    suppressed_count: int = 0
    count: int = 0
    operation_counts: dict[str, int] | None = None

    def number_operation(self, name: str) -> int:
        """Return how often an operation was begun in this attempt, this time included."""
        self.operation_counts = self.operation_counts or {}
        number = self.operation_counts[name] = self.operation_counts.get(name, 0) + 1
        return number

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
