"""Payloads: what is too large to travel stays behind, and a reference travels in its place (claim check).

    at the door      an event above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES is divided: its content, and all else
                     with a reference
    on its way out   the content is stored in the state store, under its hash; only then the event is published
    at its handlers  the content is fetched and checked, and the event is whole again

Messages and history hold the reference, as CloudEvents' `dataref`; handlers and whoever reads history see whole events.
One copy serves all subscribers, and all events that say the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError

from petiole.events.errors import BrokerFull
from petiole.tasks.publishing.document import ValidatedEvent, is_above
from petiole.tasks.stores.blobs import DATAREF, build_blob, find_reference

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def externalize_content(validated: ValidatedEvent, threshold_bytes: int) -> ValidatedEvent:
    """Let the content of an event stay behind where its JSON is above the threshold; stores nothing yet."""
    if not is_above(validated.json, threshold_bytes):
        return validated
    attributes = {name: value for name, value in validated.document.items() if name != "content"}
    blob = build_blob(validated.document["content"])
    remainder = json.dumps(attributes | {DATAREF: blob.reference}, separators=(",", ":"), ensure_ascii=False)
    return replace(validated, stub=remainder, blob=blob)


def store_contents(bus: BusRuntime, events: Sequence[ValidatedEvent]) -> None:
    """Store what stays behind of these events; to be called before they are sent. Safe to repeat.

    Raises: NotConfigured, BrokerUnavailable, StateStoreUnavailable, BrokerFull.
    """
    blobs = [each.blob for each in events if each.blob is not None]
    if not blobs:
        return
    threshold = "PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES"
    what = f"publishing {_format_topics(events)}, whose content is above {threshold} (nothing was published)"
    try:
        with bus.state_store_access(what):
            bus.stores.blobs.put(blobs)
    except OutOfMemoryError as error:
        raise BrokerFull(what, str(error), bus.state_store_name) from error


def _format_topics(events: Sequence[ValidatedEvent]) -> str:
    return ", ".join(dict.fromkeys(each.event.event_type for each in events if each.blob is not None))


def restore_content(bus: BusRuntime, document: object) -> object:
    """Fetch what stayed behind of an event; one that travelled whole needs no store, and what is none is left alone.

    Raises: PayloadUnreadable (payload_missing, payload_altered), BrokerUnavailable.
    """
    if not isinstance(document, Mapping) or find_reference(document) is None:
        return document
    with bus.state_store_access(f"fetching the content of {document.get('event_type')}"):
        return bus.stores.blobs.restore(document)
