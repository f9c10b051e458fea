"""Audit: what operators do with dead letters is published, like everything else that happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from petiole.events.catalog.dead_letters import DeadLettersEvent
from petiole.events.errors import QueueFull
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.validation import checked

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def say(bus: BusRuntime, events: Sequence[DeadLettersEvent]) -> None:
    """Publish what was done. Safe to repeat under the same ids. Raises BrokerUnavailable."""
    if not events:
        return
    try:
        dispatch(bus, [checked(bus, event) for event in events])
    except QueueFull as error:
        # It was done; a listener without room shall not keep the operator from going on.
        bus.instrumentation.emit(OperationFailed(operation="dead_letters.publish_failed", exception=error))
