"""Audit: publish an event for every operation on dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from petiole.events.catalog.dead_letters import DeadLettersEvent
from petiole.events.errors import QueueFull
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def publish_audit_events(bus: BusRuntime, events: Sequence[DeadLettersEvent]) -> None:
    """Publish audit events. Safe to repeat under the same ids. Raises BrokerUnavailable."""
    if not events:
        return
    try:
        commit(bus, [validate(bus, event) for event in events])
    except QueueFull as error:
        # The operation is done: a full queue of a subscriber must not stop the operator.
        bus.instrumentation.emit(OperationFailed(operation="dead_letters.publish_failed", exception=error))
