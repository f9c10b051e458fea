"""The door: an event is checked once, where it enters the journey, so that no station behind it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.events.event import Event
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Document, ValidatedEvent, validate_event

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def validate(bus: BusRuntime, event: Event | Document) -> ValidatedEvent:
    """Check an event at the door of this app. Raises UsageError for one that cannot be published."""
    said = event if isinstance(event, Event) else claim_check.restore_content(bus, event)
    admitted = validate_event(said, bus.event_registry, bus.settings.max_event_bytes)
    return claim_check.externalize_content(admitted, bus.settings.claim_check_threshold_bytes)
