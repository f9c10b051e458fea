"""Undecodable: raw dead letters of what nobody could read, with all the bytes that arrived.

    letter_of_message     of a message that the broker handed over: its envelope, as kombu writes it for Redis
    drain_undecodable     of bytes in a queue of Redis' that are no message at all, which the transport has set aside

The id of a raw letter is made of what arrived. So what is delivered again, or drained by two workers at once, is one
dead letter.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import NAMESPACE_URL, UUID, uuid5

from kombu.utils.json import dumps

from petiole.events.dead_letter import Cause, DeadLetter
from petiole.events.errors import undecodable_message
from petiole.tasks.broker.messages import MAILBOX_HEADER
from petiole.tasks.settlement.dead_lettering import bury, letter_of
from petiole.tasks.transport.consumer_id import OWN_HEADERS
from petiole.tasks.transport.quarantine import Aside

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message and Celery's consumer, of which the stubs describe too little to be checked against.
Message: TypeAlias = Any
Consumer: TypeAlias = Any

DRAIN_S = 0.25
"""How long a drain may hold up a worker's event loop; what is left is the next one's."""

DEAD_LETTER_HEADER = "petiole_dead_letter"
"""The header of a replayed dead letter, with its id."""

_OF_ONE_DELIVERY = OWN_HEADERS | {"redelivered", "delivery_tag", "delivery_info"}

_LONGEST_NAME = 255


def letter_of_message(
    bus: BusRuntime, message: Message, error: BaseException, cause: Cause, *, document: object = None
) -> DeadLetter:
    """Make the raw dead letter of a message."""
    queue = _name((message.delivery_info or {}).get("routing_key"))
    made_id = _id_of(queue, _as_bytes(message.body), _stable(message))
    delivery_id = _uuid_in(message, "id") or made_id
    # A delivery that could be read but for its handler is known by its own id, and a replay by its letter's.
    letter_id = delivery_id if document is not None else made_id
    return letter_of(
        bus,
        error,
        cause,
        delivery_id=delivery_id,
        letter_id=_uuid_in(message, DEAD_LETTER_HEADER) or letter_id,
        subscription=_name(headers_of(message).get("task")),
        queue=queue,
        document=document,
        raw=envelope_of(message),
        mailbox=mailbox_of(message),
    )


def mailbox_of(message: Message) -> str | None:
    """Read which mailbox an ordered delivery came from; None for any other."""
    mailbox = headers_of(message).get(MAILBOX_HEADER)
    return mailbox if isinstance(mailbox, str) and mailbox and mailbox.isprintable() else None


def headers_of(message: Message) -> Mapping[str, Any]:
    """Read a message's headers; none where they are no object."""
    return message.headers if isinstance(message.headers, Mapping) else {}


def document_in(message: Message) -> Mapping[str, Any] | None:
    """Read the event's JSON object that a task's message carries; None where it carries none."""
    try:
        (document, *_), *_ = json.loads(_as_bytes(message.body))
    except (ValueError, TypeError, RecursionError):
        return None
    return document if isinstance(document, Mapping) else None


def envelope_of(message: Message) -> bytes:
    """Write a message with all that it carries: as it stood in its queue, or else as kombu writes it for Redis."""
    channel = message.channel
    text = channel.text_of(message.delivery_tag) if isinstance(channel, Aside) and not channel.closed else None
    if text is not None:
        return bytes(text)
    raw = getattr(message, "_raw", None)
    payload = dict(raw) if isinstance(raw, Mapping) else _as_for_redis(message)
    if isinstance(payload.get("headers"), Mapping):
        payload["headers"] = {name: value for name, value in payload["headers"].items() if name not in OWN_HEADERS}
    try:
        return dumps(payload).encode()
    except (TypeError, ValueError, RecursionError):
        # Headers that only AMQP has a form for. The body is what counts.
        return _as_bytes(message.body)


def drain_undecodable(bus: BusRuntime, holder: Consumer) -> int:
    """Make dead letters of the bytes that the transport has set aside; returns how many in this bounded while.

    Each is kept before it is removed: what dies in between is drained again, into the same dead letter. `holder` is a
    consumer or a channel; one of another transport has nothing to drain. Raises what keeping a dead letter raises.
    """
    channel = getattr(getattr(holder, "task_consumer", holder), "channel", holder)
    if not isinstance(channel, Aside) or channel.closed:
        return 0
    drained, ends_at = 0, monotonic() + DRAIN_S
    while monotonic() < ends_at and (first := channel.first_undecodable()) is not None:
        queue, raw, entry = first
        letter_id = _id_of(queue, raw)
        error = undecodable_message(queue, len(raw))
        bury(
            bus,
            letter_of(
                bus,
                error,
                "undecodable",
                delivery_id=letter_id,
                subscription="",
                queue=queue,
                raw=raw,
            ),
        )
        channel.forget_undecodable(entry)
        drained += 1
    return drained


def _uuid_in(message: Message, header: str) -> str | None:
    said = headers_of(message).get(header)
    try:
        return str(UUID(said)) if isinstance(said, str) else None
    except ValueError:
        return None


def _id_of(queue: str, *parts: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return str(uuid5(NAMESPACE_URL, f"petiole:undecodable:{queue}:{digest}"))


def _stable(message: Message) -> bytes:
    """Write what stays the same when a message is delivered again: not its tag, nor who holds it."""
    raw = getattr(message, "_raw", None)
    # Of a message that is none, kombu's fields hold only what could be read.
    said = dict(raw) if isinstance(raw, Mapping) else {"headers": message.headers, "properties": message.properties}
    for name in ("headers", "properties"):
        if isinstance(part := said.get(name), Mapping):
            said[name] = sorted((key, value) for key, value in part.items() if key not in _OF_ONE_DELIVERY)
    return repr((message.content_type, message.content_encoding, sorted(said.items()))).encode("utf-8", "replace")


def _as_bytes(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


def _as_for_redis(message: Message) -> dict[str, Any]:
    found = message.delivery_info or {}
    delivery_info = {"exchange": found.get("exchange"), "routing_key": found.get("routing_key")}
    return {
        "body": base64.b64encode(_as_bytes(message.body)).decode("ascii"),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": dict(headers_of(message)),
        "properties": {
            **(message.properties or {}),
            "body_encoding": "base64",
            "delivery_info": delivery_info,
            "delivery_tag": str(message.delivery_tag),
        },
    }


def _name(said: object) -> str:
    """Write a name that a message gives; empty where it gives none."""
    return said[:_LONGEST_NAME] if isinstance(said, str) else ""
