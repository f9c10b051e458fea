"""Claim check: store a large content once, and send a reference in its place.

    validate    an event above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES is split into its content and a stub with a reference
    publish     the content is stored in the state store under its hash, before the event is sent
    deliver     the content is fetched and checked against its hash, and the event is complete again

Messages and history hold the reference, as CloudEvents' `dataref`; handlers and readers of the history get complete
events. One copy serves all subscriptions, and all events with the same content.
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
    """Replace the content of an event by a reference if its JSON is above the threshold; stores nothing yet."""
    if not is_above(validated.json, threshold_bytes):
        return validated
    attributes = {name: value for name, value in validated.document.items() if name != "content"}
    event = validated.event
    lifetime = None if event.expires_at is None else event.expires_at - event.timestamp
    blob = build_blob(validated.document["content"], lifetime)
    stub = json.dumps(attributes | {DATAREF: blob.reference}, separators=(",", ":"), ensure_ascii=False)
    return replace(validated, stub=stub, blob=blob)


def store_contents(bus: BusRuntime, events: Sequence[ValidatedEvent]) -> None:
    """Store the separated contents of events, before the events are sent. Safe to repeat.

    Raises: NotConfigured, BrokerUnavailable, StateStoreUnavailable, BrokerFull.
    """
    kept = [*events, *(validated.redacted for validated in events if validated.redacted is not None)]
    blobs = [validated.blob for validated in kept if validated.blob is not None]
    if not blobs:
        return
    threshold = "PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES"
    operation = f"publishing {_format_topics(events)}, whose content is above {threshold} (nothing was published)"
    try:
        with bus.state_store_access(operation):
            bus.stores.blobs.put(blobs)
    except OutOfMemoryError as error:
        raise BrokerFull(operation, str(error), bus.state_store_name) from error


def _format_topics(events: Sequence[ValidatedEvent]) -> str:
    return ", ".join(dict.fromkeys(validated.event.event_type for validated in events if validated.blob is not None))


def restore_content(bus: BusRuntime, document: object) -> object:
    """Fetch the content of an event that has a reference in its place. Other documents are returned unchanged.

    Raises: PayloadUnreadable, BrokerUnavailable, StateStoreUnavailable.
    """
    if not isinstance(document, Mapping) or find_reference(document) is None:
        return document
    with bus.state_store_access(f"fetching the content of {document.get('event_type')}"):
        return bus.stores.blobs.restore(document)
