"""Ids of events, deliveries and traces: how they are generated or derived, and their types.

UUID version 7 starts with the time in milliseconds, so ids sort by age in every store and log.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from enum import IntEnum
from hashlib import sha1
from typing import Annotated
from uuid import NAMESPACE_OID, NAMESPACE_URL, UUID, uuid5

from pydantic import AfterValidator, StringConstraints


def new_event_id() -> str:
    """Generate the id of a new event, a UUID of version 7: 48 bits of Unix time in ms, 74 random bits.

    Source: RFC 9562, section 5.7. Written as text at once, because every new event needs one.
    """
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10).hex()
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The first two bits of the digit are the variant of the UUIDs of RFC 9562."""


def delivery_ids(event_id: str, subscriptions: Iterable[str]) -> list[str]:
    """Derive the ids of an event's deliveries, one per subscription. The same arguments always give the same ids."""
    # As UUID(event_id).bytes, in a quarter of the time.
    event = bytes.fromhex(event_id.replace("-", ""))
    return [_uuid5_text(event, subscription) for subscription in subscriptions]


def delivery_id(event_id: str, subscription: str) -> str:
    """Derive the id of an event's delivery to one subscription."""
    return _uuid5_text(UUID(event_id).bytes, subscription)


def _uuid5_text(namespace: bytes, name: str) -> str:
    """Compute str(uuid5(namespace, name)) in a fifth of the time. A publisher needs one per subscription.

    Source: RFC 9562, section 5.5.
    """
    digits = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    variant = _VARIANT[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def replayed_delivery_id(event_id: str, subscription: str, replay_id: str) -> str:
    """Derive the id of an event's delivery in a history replay. The same arguments always give the same id."""
    return str(uuid5(UUID(event_id), f"{subscription} in replay {replay_id}"))


def letter_delivery_id(letter_id: str, number: int) -> str:
    """Derive the delivery id of the n-th replay (from 1) of a dead letter. Same arguments, same id."""
    return _derive_id(letter_id, f"replay {number}")


def edited_letter_id(letter_id: str, document: str) -> str:
    """Derive the id of the dead letter that replaces an edited one. `document` is the edited event as JSON."""
    return _derive_id(letter_id, f"edited to {document}")


def _derive_id(letter_id: str, name: str) -> str:
    try:
        return str(uuid5(UUID(letter_id), name))
    except ValueError:
        # A dead letter of another program's message has that program's id, which may not be a UUID.
        return str(uuid5(NAMESPACE_OID, f"{letter_id} {name}"))


class ReservedIndex(IntEnum):
    """Indexes of events about a delivery that Petiole emits; a handler's own events count from 0."""

    DEAD_LETTERED = -1
    REPLAYED = -2
    EDITED = -3
    AGENT_FAILED = -4


def emitted_event_id(delivery: str, index: int) -> str:
    """Derive the id of the n-th event (from 0) that a delivery emits, so that a retry emits it under the same id."""
    return str(uuid5(UUID(delivery), str(index)))


def derived_event_id(*facts: object) -> str:
    """Derive an event id from the facts that make the event the same one, so that it is published once."""
    return str(uuid5(NAMESPACE_URL, repr(facts)))


def new_traceparent(event_id: str) -> str:
    """Start a new trace for an event: version 00, a random trace id, the event's span id, sampled.

    Source: W3C Trace Context, section 3.2 (traceparent header).
    """
    return f"00-{os.urandom(16).hex()}-{span_id_of(event_id)}-01"


def continue_traceparent(traceparent: str, event_id: str) -> str:
    """Return the trace context of an event in the trace of another: the same trace, a span id of its own."""
    return f"{traceparent[:36]}{span_id_of(event_id)}{traceparent[52:]}"


def span_id_of(event_id: str) -> str:
    """Return the span id of an event: the end of its id, so that each attempt at its cause gives it the same."""
    return event_id[19:23] + event_id[24:]


_CANONICAL = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def _canonical_uuid(text: str) -> str:
    if _CANONICAL.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("must be a UUID, such as 0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10") from None


# A delivery's id is uuid5(event id, subscription), so an event's id must be a UUID.
EventId = Annotated[str, AfterValidator(_canonical_uuid)]

RequestId = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=255)]
"""The requester's id of a request; any text."""


def stored_request_id(request_id: str) -> str:
    """Return the id under which a request is pending in the state store: a UUID, as keys have no text from outside."""
    return request_id if _CANONICAL.fullmatch(request_id) else str(uuid5(NAMESPACE_OID, f"request {request_id}"))


StreamId = Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=False)]
"""A conversation or session. The client that starts it chooses the id."""

AGENT_NAME = r"^[a-z][a-z0-9_-]{0,99}$"

AgentName = Annotated[str, StringConstraints(pattern=AGENT_NAME)]
"""The name of an agent and of its queue. It has no comma, because commas separate the names of a CloudEvent's path."""

PUBLISHER_NAME = r"^[a-z0-9][a-z0-9_.-]{0,99}$"
"""The name of a process or an agent that publishes."""

RESERVED_AGENT_NAMES = r"petiole|publish|celery.*|unacked.*"
"""The queues and keys of Celery, kombu and Petiole, and the first words of their tasks."""

Traceparent = Annotated[str, StringConstraints(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]

SYSTEM_STREAM = "system"
"""The stream of the events about the system and its agents."""
