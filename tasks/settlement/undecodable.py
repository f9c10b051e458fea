"""Undecodable: raw dead letters of what nobody could read, with all the bytes that arrived.

    build_raw_dead_letter     of a message that the broker handed over: its envelope, as kombu writes it for Redis
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
from petiole.tasks.broker.messages import MESSAGE_GROUP_HEADER
from petiole.tasks.settlement.dead_lettering import build_dead_letter, dead_letter
from petiole.tasks.transport.consumer_id import OWN_HEADERS
from petiole.tasks.transport.quarantine import Quarantine

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message and Celery's consumer, of which the stubs describe too little to be checked against.
ReceivedMessage: TypeAlias = Any
CeleryConsumer: TypeAlias = Any

DRAIN_TIME_LIMIT_S = 0.25
"""How long a drain may hold up a worker's event loop; what is left is the next one's."""

LETTER_HEADER = "petiole_dead_letter"
"""The header of a replayed dead letter, with its id."""

_PER_DELIVERY_HEADERS = OWN_HEADERS | {"redelivered", "delivery_tag", "delivery_info"}

_MAX_NAME_LENGTH = 255


def build_raw_dead_letter(
    bus: BusRuntime, message: ReceivedMessage, error: BaseException, cause: Cause, *, document: object = None
) -> DeadLetter:
    """Make the raw dead letter of a message."""
    queue = _read_name((message.delivery_info or {}).get("routing_key"))
    made_id = _derive_letter_id(queue, _to_bytes(message.body), _encode_stable_parts(message))
    delivery_id = _read_uuid(message, "id") or made_id
    # A delivery that could be read but for its handler is known by its own id, and a replay by its letter's.
    letter_id = delivery_id if document is not None else made_id
    return build_dead_letter(
        bus,
        error,
        cause,
        delivery_id=delivery_id,
        letter_id=_read_uuid(message, LETTER_HEADER) or letter_id,
        subscription=_read_name(read_headers(message).get("task")),
        queue=queue,
        document=document,
        raw=encode_message(message),
        message_group=message_group_of(message),
    )


def message_group_of(message: ReceivedMessage) -> str | None:
    """Read which mailbox an ordered delivery came from; None for any other."""
    mailbox = read_headers(message).get(MESSAGE_GROUP_HEADER)
    return mailbox if isinstance(mailbox, str) and mailbox and mailbox.isprintable() else None


def read_headers(message: ReceivedMessage) -> Mapping[str, Any]:
    """Read a message's headers; none where they are no object."""
    return message.headers if isinstance(message.headers, Mapping) else {}


def read_document(message: ReceivedMessage) -> Mapping[str, Any] | None:
    """Read the event's JSON object that a task's message carries; None where it carries none."""
    try:
        (document, *_), *_ = json.loads(_to_bytes(message.body))
    except (ValueError, TypeError, RecursionError):
        return None
    return document if isinstance(document, Mapping) else None


def encode_message(message: ReceivedMessage) -> bytes:
    """Write a message with all that it carries: as it stood in its queue, or else as kombu writes it for Redis."""
    channel = message.channel
    text = channel.text_of(message.delivery_tag) if isinstance(channel, Quarantine) and not channel.closed else None
    if text is not None:
        return bytes(text)
    raw = getattr(message, "_raw", None)
    payload = dict(raw) if isinstance(raw, Mapping) else _to_redis_format(message)
    if isinstance(payload.get("headers"), Mapping):
        payload["headers"] = {name: value for name, value in payload["headers"].items() if name not in OWN_HEADERS}
    try:
        return dumps(payload).encode()
    except (TypeError, ValueError, RecursionError):
        # Headers that only AMQP has a form for. The body is what counts.
        return _to_bytes(message.body)


def drain_undecodable(bus: BusRuntime, consumer_or_channel: CeleryConsumer) -> int:
    """Make dead letters of the bytes that the transport has set aside; returns how many in this bounded while.

    Each is kept before it is removed: what dies in between is drained again, into the same dead letter. `holder` is a
    consumer or a channel; one of another transport has nothing to drain. Raises what keeping a dead letter raises.
    """
    channel = getattr(
        getattr(consumer_or_channel, "task_consumer", consumer_or_channel), "channel", consumer_or_channel
    )
    if not isinstance(channel, Quarantine) or channel.closed:
        return 0
    drained, ends_at = 0, monotonic() + DRAIN_TIME_LIMIT_S
    while monotonic() < ends_at and (first := channel.first_undecodable()) is not None:
        queue, raw, entry = first
        letter_id = _derive_letter_id(queue, raw)
        error = undecodable_message(queue, len(raw))
        dead_letter(
            bus,
            build_dead_letter(
                bus,
                error,
                "undecodable",
                delivery_id=letter_id,
                subscription="",
                queue=queue,
                raw=raw,
            ),
        )
        channel.delete_undecodable(entry)
        drained += 1
    return drained


def _read_uuid(message: ReceivedMessage, header: str) -> str | None:
    said = read_headers(message).get(header)
    try:
        return str(UUID(said)) if isinstance(said, str) else None
    except ValueError:
        return None


def _derive_letter_id(queue: str, *parts: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return str(uuid5(NAMESPACE_URL, f"petiole:undecodable:{queue}:{digest}"))


def _encode_stable_parts(message: ReceivedMessage) -> bytes:
    """Write what stays the same when a message is delivered again: not its tag, nor who holds it."""
    raw = getattr(message, "_raw", None)
    # Of a message that is none, kombu's fields hold only what could be read.
    said = dict(raw) if isinstance(raw, Mapping) else {"headers": message.headers, "properties": message.properties}
    for name in ("headers", "properties"):
        if isinstance(part := said.get(name), Mapping):
            said[name] = sorted((key, value) for key, value in part.items() if key not in _PER_DELIVERY_HEADERS)
    return repr((message.content_type, message.content_encoding, sorted(said.items()))).encode("utf-8", "replace")


def _to_bytes(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


def _to_redis_format(message: ReceivedMessage) -> dict[str, Any]:
    found = message.delivery_info or {}
    delivery_info = {"exchange": found.get("exchange"), "routing_key": found.get("routing_key")}
    return {
        "body": base64.b64encode(_to_bytes(message.body)).decode("ascii"),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": dict(read_headers(message)),
        "properties": {
            **(message.properties or {}),
            "body_encoding": "base64",
            "delivery_info": delivery_info,
            "delivery_tag": str(message.delivery_tag),
        },
    }


def _read_name(value: object) -> str:
    """Write a name that a message gives; empty where it gives none."""
    return value[:_MAX_NAME_LENGTH] if isinstance(value, str) else ""
