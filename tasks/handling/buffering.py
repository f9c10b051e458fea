"""Buffering: keep the events that a handler publishes in its outbox until the handler has succeeded."""

from __future__ import annotations

from datetime import datetime

from petiole.events.errors import too_many_events
from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.publishing.delayed import delay_publication
from petiole.tasks.publishing.document import Document, ValidatedEvent, parse_event
from petiole.tasks.publishing.validation import validate


def buffer(context: CurrentDelivery, event: Event | Document, due: datetime | None = None) -> Publication:
    """Validate an event and put it into the outbox of the running handler.

    Raises UsageError: too_many_events, and if the event cannot be published.
    """
    limit = context.bus.settings.max_events_per_delivery
    if context.outbox.size >= limit:
        raise too_many_events(context.subscription.name, limit)
    validated = prepare_emitted(context, event)
    if due is None:
        context.outbox.events.append(validated)
    else:
        context.outbox.delayed.append(delay_publication(context.bus, validated, due))
    return Publication(validated.event, was_buffered=True, due=due)


def prepare_emitted(context: CurrentDelivery, event: Event | Document) -> ValidatedEvent:
    """Validate an event as a consequence of the event being handled. Raises UsageError."""
    if not isinstance(event, Event):
        event = parse_event(claim_check.restore_content(context.bus, event), context.bus.event_registry)
    return validate(context.bus, context.prepare_event(event), context.publisher)
