"""Document: an event as JSON, which is the one argument of a task message.

The argument is the event's JSON object, so Flower and programs in other languages can read it. For a large event it has
a reference in place of the content (claim_check.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from petiole.events.errors import InvalidEvent, event_too_large
from petiole.events.event import Event
from petiole.events.registry import EventRegistry
from petiole.events.texts import MAX_EVENT_VALUES, check_json_values
from petiole.tasks.stores.blobs import Blob

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_MAX_UTF8_BYTES = 4

Document: TypeAlias = Mapping[str, object]
"""An event as a JSON object: in our own format, or as a CloudEvent."""


@dataclass(frozen=True)
class ValidatedEvent:
    """A valid event with its JSON text.

    For a large event, `stub` is the text with a reference in place of the content, and `blob` is the content. `span` is
    the event's producer span, which ends when the event is committed. `redacted` is the event without its secrets, if
    it has any: the one that the history keeps.
    """

    event: Event
    json: str
    stub: str | None = None
    blob: Blob | None = None
    span: Span | None = None
    redacted: ValidatedEvent | None = None

    @property
    def recorded(self) -> ValidatedEvent:
        """The event as the history keeps it."""
        return self.redacted or self

    @property
    def text(self) -> str:
        """The JSON text that messages carry."""
        return self.json if self.stub is None else self.stub

    @cached_property
    def document(self) -> dict[str, object]:
        """The whole event as a JSON object; parsed when it is first used, because most events do not need it."""
        return _to_document(self.json)

    @property
    def payload(self) -> dict[str, object]:
        """The JSON object that messages carry."""
        return self.document if self.stub is None else _to_document(self.stub)

    def with_trace_context(self, traceparent: str, span: Span | None) -> ValidatedEvent:
        """Return the event with a trace context and a producer span. Its text is changed in place of written again."""
        if traceparent == self.event.traceparent:
            return self if span is None else replace(self, span=span)
        # The last one: before it, the content may have the same; behind it, no field has text from outside.
        before, found, after = self.json.rpartition(f'"traceparent":"{self.event.traceparent}"')
        event = self.event.copy_with_valid({"traceparent": traceparent})
        text = f'{before}"traceparent":"{traceparent}"{after}' if found else _to_json(event)
        return replace(self, event=event, json=text, span=span)


def validate_event(event: object, registry: EventRegistry, limit_bytes: int) -> ValidatedEvent:
    """Validate an event against its class and the size limit.

    Raises:
        UsageError: unknown_event_type, event_too_large.
        InvalidEvent: missing_field, unknown_field, wrong_type, invalid_value.
    """
    if not isinstance(event, Event):
        event = parse_event(event, registry)
    is_valid = registry.check(event)
    text = _to_json(event)
    if is_above(text, limit_bytes):
        raise event_too_large(event.event_type, len(text.encode()), limit_bytes)
    return ValidatedEvent(event if is_valid else registry.read_back(event, text), text)


def parse_event(document: object, registry: EventRegistry) -> Event:
    """Parse an event from a JSON object in our format or as a CloudEvent. Raises as `validate_event`."""
    if not isinstance(document, Mapping):
        raise InvalidEvent(
            "event", "event", f"must be a JSON object, not a {type(document).__name__}", code="wrong_type"
        )
    if "specversion" in document:
        return registry.parse_cloudevent(document)
    return registry.parse(document)


def read_event(document: object, registry: EventRegistry) -> Event:
    """Read an event that its publisher has validated: unknown fields are kept. Raises as `validate_event`."""
    if isinstance(document, Mapping) and "specversion" not in document:
        return registry.read(document)
    return parse_event(document, registry)


def is_above(text: str, limit_bytes: int) -> bool:
    """Return whether a text is above the limit in UTF-8. It is encoded only if its length is near the limit."""
    return len(text) * _MAX_UTF8_BYTES > limit_bytes and len(text.encode()) > limit_bytes


def _to_json(event: Event) -> str:
    try:
        text = event.model_dump_json()
        check_json_values(text, MAX_EVENT_VALUES)
    except ValueError as error:
        raise InvalidEvent(
            event.event_type, "content", f"cannot be written as JSON: {error}", code="invalid_value"
        ) from error
    return text


def _to_document(text: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(text)
    return document
