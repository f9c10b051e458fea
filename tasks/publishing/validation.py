"""Validate an event when it enters the backbone, so that no later stage has to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from petiole.events.event import Event
from petiole.tasks.instrumentation.tracing import start_publishing
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Document, ValidatedEvent, validate_event
from petiole.tasks.publishing.redaction import add_redacted
from petiole.tasks.publishing.stamping import add_publisher
from petiole.tasks.trust.policy import BACKBONE

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def validate(bus: BusRuntime, event: Event | Document, publisher: str = BACKBONE) -> ValidatedEvent:
    """Validate an event, give it a span id of its own, separate a large content, and redact what the history keeps.

    `publisher` is who publishes it. Raises UsageError if it cannot be published.
    """
    complete = event if isinstance(event, Event) else claim_check.restore_content(bus, event)
    if bus.store_clock.ahead_ms:
        complete = _with_virtual_time(bus, complete)
    validated = validate_event(complete, bus.event_registry, bus.settings.max_event_bytes)
    validated = validated.with_trace_context(*start_publishing(validated.event))
    validated = add_redacted(bus, claim_check.externalize_content(validated, bus.settings.claim_check_threshold_bytes))
    return add_publisher(bus, validated, publisher)


def _with_virtual_time(bus: BusRuntime, event: object) -> object:
    """Give an event that was made without a timestamp the time of a test harness that has skipped time."""
    if isinstance(event, Event):
        is_given = "timestamp" in event.model_fields_set
        return event if is_given else event.copy_with_valid({"timestamp": bus.now()})
    if isinstance(event, Mapping) and not {"timestamp", "specversion"} & event.keys():
        return {**event, "timestamp": bus.now().isoformat()}
    return event
