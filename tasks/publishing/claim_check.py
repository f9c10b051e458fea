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
from petiole.tasks.publishing.document import Admitted, is_above
from petiole.tasks.stores.blobs import DATAREF, blob_of, reference_in

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def divided(admitted: Admitted, threshold_bytes: int) -> Admitted:
    """Let the content of an event stay behind where its JSON is above the threshold; stores nothing yet."""
    if not is_above(admitted.whole, threshold_bytes):
        return admitted
    attributes = {name: value for name, value in admitted.document.items() if name != "content"}
    blob = blob_of(admitted.document["content"])
    remainder = json.dumps(attributes | {DATAREF: blob.reference}, separators=(",", ":"), ensure_ascii=False)
    return replace(admitted, remainder=remainder, payload=blob)


def store(bus: BusRuntime, events: Sequence[Admitted]) -> None:
    """Store what stays behind of these events; to be called before they are sent. Safe to repeat.

    Raises: NotConfigured, BrokerUnavailable, StateStoreUnavailable, BrokerFull.
    """
    blobs = [each.payload for each in events if each.payload is not None]
    if not blobs:
        return
    threshold = "PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES"
    what = f"publishing {_topics(events)}, whose content is above {threshold} (nothing was published)"
    try:
        with bus.state_store_access(what):
            bus.stores.blobs.put(blobs)
    except OutOfMemoryError as error:
        raise BrokerFull(what, str(error), bus.state_store_name) from error


def _topics(events: Sequence[Admitted]) -> str:
    return ", ".join(dict.fromkeys(each.event.event_type for each in events if each.payload is not None))


def whole(bus: BusRuntime, document: object) -> object:
    """Fetch what stayed behind of an event; one that travelled whole needs no store, and what is none is left alone.

    Raises: PayloadUnreadable (payload_missing, payload_altered), BrokerUnavailable.
    """
    if not isinstance(document, Mapping) or reference_in(document) is None:
        return document
    with bus.state_store_access(f"fetching the content of {document.get('event_type')}"):
        return bus.stores.blobs.whole(document)
