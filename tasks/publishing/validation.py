"""The door: an event is checked once, where it enters the journey, so that no station behind it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.events.event import Event
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Admitted, Document, admit

if TYPE_CHECKING:
    from petiole.tasks.celery import EventApp


def checked(app: EventApp, event: Event | Document) -> Admitted:
    """Check an event at the door of this app. Raises Misuse for one that cannot be published."""
    said = event if isinstance(event, Event) else claim_check.whole(app, event)
    admitted = admit(said, app.event_registry, app.settings.max_event_bytes)
    return claim_check.divided(admitted, app.settings.claim_check_bytes)
