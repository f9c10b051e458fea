"""The door: an event is checked once, where it enters the journey, so that no station behind it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.events.event import Event
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Admitted, Document, admit

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def checked(bus: BusRuntime, event: Event | Document) -> Admitted:
    """Check an event at the door of this app. Raises UsageError for one that cannot be published."""
    said = event if isinstance(event, Event) else claim_check.whole(bus, event)
    admitted = admit(said, bus.event_registry, bus.settings.max_event_bytes)
    return claim_check.divided(admitted, bus.settings.claim_check_threshold_bytes)
