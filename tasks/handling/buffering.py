"""Buffering: what a handler publishes is kept in its outbox until the handler has succeeded."""

from __future__ import annotations

from datetime import datetime

from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.publishing.delayed import publication
from petiole.tasks.publishing.document import Admitted, Document, read
from petiole.tasks.publishing.validation import checked


def hold(context: CurrentDelivery, event: Event | Document, due: datetime | None = None) -> Publication:
    """Keep an event of a handler's until the handler has succeeded.

    Raises UsageError for one that cannot be published.
    """
    admitted = emitted(context, event)
    if due is None:
        context.outbox.held.append(admitted)
    else:
        context.outbox.later.append(publication(context.bus, admitted, due))
    return Publication(admitted.event, was_held=True, due=due)


def emitted(context: CurrentDelivery, event: Event | Document) -> Admitted:
    """Check an event as a consequence of the one being handled. Raises UsageError."""
    said = (
        event if isinstance(event, Event) else read(claim_check.whole(context.bus, event), context.bus.event_registry)
    )
    return checked(context.bus, context.emitted(said))
