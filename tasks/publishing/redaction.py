"""Redaction of events: the history keeps an event without its secrets; subscriptions and requesters get it with them.

The hook of PETIOLE_REDACT (events/redaction.py) gets each text of `content` and of `context.extra`. The queue entries
of an event that it changes carry the event itself beside the reference to the history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from petiole.events.event import Event, EventT
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Document, ValidatedEvent

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def add_redacted(bus: BusRuntime, validated: ValidatedEvent) -> ValidatedEvent:
    """Add what the history keeps of an event, if it has secrets."""
    event = validated.event
    if not _may_have_secret(bus, event):
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
    if not _may_have_secret(bus, event):
        return event
    return type(event).model_validate_json(json.dumps(_redact(bus, event.model_dump(mode="json"))))


def _may_have_secret(bus: BusRuntime, event: Event) -> bool:
    return bus.redactor.may_change(event.content) or bus.redactor.may_change(event.context.extra)


def _redact(bus: BusRuntime, document: Document) -> dict[str, object]:
    redacted = {**document, "content": bus.redactor.value(document["content"])}
    context = document.get("context")
    if isinstance(context, Mapping):
        redacted["context"] = {**context, "extra": bus.redactor.value(context.get("extra", {}))}
    return redacted
