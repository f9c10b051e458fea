"""Redaction of events: the history keeps an event without its secrets; subscriptions and requesters get it with them.

The hook of PETIOLE_REDACT (events/redaction.py) gets each text of the content, and of `context`. The queue entries of
an event that it changes carry the event itself instead of a reference to the history.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from petiole.events.event import EventT
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Document, ValidatedEvent

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_REDACTED_FIELDS = ("content", "context")


def add_redacted(bus: BusRuntime, validated: ValidatedEvent) -> ValidatedEvent:
    """Add what the history keeps of an event, if it has secrets."""
    event = validated.event
    if not any(bus.redactor.may_change(getattr(event, name)) for name in _REDACTED_FIELDS):
        return validated
    document = _redact(bus, validated.document)
    if document == validated.document:
        return validated
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    threshold_bytes = bus.settings.claim_check_threshold_bytes
    redacted = claim_check.externalize_content(ValidatedEvent(event, text), threshold_bytes)
    return replace(validated, redacted=redacted)


def redact_event(bus: BusRuntime, event: EventT) -> EventT:
    """Return an event without its secrets, for a handler that keeps what was said. Raises InvalidEvent."""
    if not any(bus.redactor.may_change(getattr(event, name)) for name in _REDACTED_FIELDS):
        return event
    return type(event).model_validate_json(json.dumps(_redact(bus, event.model_dump(mode="json"))))


def _redact(bus: BusRuntime, document: Document) -> dict[str, object]:
    return {name: bus.redactor.value(value) if name in _REDACTED_FIELDS else value for name, value in document.items()}
