"""Stamping: write an event's publisher, and its signature, into the event's JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from petiole.events.errors import event_too_large
from petiole.tasks.publishing.document import ValidatedEvent, is_above

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def add_publisher(bus: BusRuntime, validated: ValidatedEvent, publisher: str) -> ValidatedEvent:
    """Refuse an event that its publisher may not publish, and write who publishes it, if that is checked.

    Raises UsageError: publish_forbidden, event_too_large.
    """
    event = validated.event
    if not bus.trust.marks(event.event_type):
        return validated
    bus.trust.require_permission(event, publisher)
    stamped = _stamp(bus, validated, publisher)
    limit_bytes = bus.settings.max_event_bytes
    if is_above(stamped.json, limit_bytes):
        raise event_too_large(event.event_type, len(stamped.json.encode()), limit_bytes)
    # What the history keeps is another text, so its signature is another one.
    return stamped if stamped.redacted is None else replace(stamped, redacted=_stamp(bus, stamped.redacted, publisher))


def _stamp(bus: BusRuntime, validated: ValidatedEvent, publisher: str) -> ValidatedEvent:
    # The same for the whole event and its stub: a signature covers the hash of the content.
    members = bus.trust.members(validated.document, publisher)
    stub = None if validated.stub is None else _append(validated.stub, members)
    return replace(validated, json=_append(validated.json, members), stub=stub)


def _append(text: str, members: Mapping[str, str]) -> str:
    return f"{text[:-1]},{json.dumps(members, separators=(',', ':'))[1:]}"
