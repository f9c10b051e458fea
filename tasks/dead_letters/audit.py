"""Audit: what operators do with dead letters is published, like everything else that happens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from petiole.events.catalog.dead_letters import DeadLettersEvent
from petiole.events.errors import QueueFull
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.validation import checked

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

log = logging.getLogger(__name__)


def say(bus: BusRuntime, events: Sequence[DeadLettersEvent]) -> None:
    """Publish what was done. Safe to repeat under the same ids. Raises BrokerUnavailable."""
    if not events:
        return
    try:
        dispatch(bus, [checked(bus, event) for event in events])
    except QueueFull:
        # It was done; a listener without room shall not keep the operator from going on.
        log.exception("dead_letters.unsaid", extra={"events": len(events)})
