"""Raw dead letters: keep the bytes of messages that could not be processed as tasks.

    build_raw_dead_letter    from a kombu message: the message as kombu writes it to Redis
    drain_undecodable        from bytes in a Redis queue that are not a message, which the transport has quarantined

The id of a raw letter derives from its bytes. So a redelivered message, or one that two workers drain, becomes a single
dead letter.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import NAMESPACE_URL, UUID, uuid5

from kombu.utils.json import dumps

from petiole.events.dead_letter import Cause, DeadLetter
from petiole.events.errors import undecodable_message
from petiole.events.texts import parse_json
from petiole.tasks.settlement.dead_lettering import build_dead_letter, dead_letter
from petiole.tasks.stores.deliveries import ENTRY_HEADER, MESSAGE_GROUP_HEADER
from petiole.tasks.stores.publications import Lease, Settlement
from petiole.tasks.transport.consumer_id import CONSUMER_HEADER, OWN_HEADERS
from petiole.tasks.transport.message import MAX_MESSAGE_BYTES
from petiole.tasks.transport.quarantine import Quarantine

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message and Celery's consumer; the stubs describe too little of them to check against.
ReceivedMessage: TypeAlias = Any
CeleryConsumer: TypeAlias = Any

DRAIN_TIME_LIMIT_S = 0.25
"""How long one drain may block the worker's event loop, in seconds; the next drain continues."""

LETTER_HEADER = "petiole_dead_letter"
"""The header of a replayed message with its dead letter's id."""

_PER_DELIVERY_HEADERS = OWN_HEADERS | {"redelivered", "delivery_tag", "delivery_info"}

_MAX_NAME_LENGTH = 255


def build_raw_dead_letter(
    bus: BusRuntime, message: ReceivedMessage, error: BaseException, cause: Cause, *, document: object = None
) -> DeadLetter:
    """Make the raw dead letter of a message.

    Args:
        bus: the bus of the message.
        message: kombu's message.
        error: the error that the message caused.
        cause: the classification of the error.
        document: the event's JSON object, if it could be decoded.
    """
    queue = _read_name((message.delivery_info or {}).get("routing_key"))
    derived_id = _derive_letter_id(queue, _to_bytes(message.body), _encode_stable_parts(message))
    delivery_id = _read_uuid(message, "id") or derived_id
    # A decoded message is identified by its delivery, a replayed one by its letter, all others by their bytes.
    letter_id = delivery_id if document is not None else derived_id
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
    """Return the message group of an ordered delivery; None for others."""
    group = read_headers(message).get(MESSAGE_GROUP_HEADER)
    return group if isinstance(group, str) and group and group.isprintable() else None


def leased_settlement(message: ReceivedMessage, delivery_id: str) -> Settlement | None:
    """Return the settlement of a delivery that is a queue entry, or of an ordered one; None for other messages."""
    headers = read_headers(message)
    group, consumer = message_group_of(message), headers.get(CONSUMER_HEADER)
    is_entry = bool(headers.get(ENTRY_HEADER)) and isinstance(consumer, str)
    if not (is_entry or group):
        return None
    lease = Lease(message.delivery_tag, str(consumer), is_entry=True) if is_entry else None
    return Settlement(delivery_id=delivery_id, message_group=group, lease=lease)


def read_headers(message: ReceivedMessage) -> Mapping[str, Any]:
    """Return a message's headers; empty if they are not an object."""
    return message.headers if isinstance(message.headers, Mapping) else {}


def read_document(message: ReceivedMessage) -> Mapping[str, Any] | None:
    """Return the event's JSON object in a task message; None if there is none, or the body is too large to parse."""
    body = _to_bytes(message.body)
    if len(body) > MAX_MESSAGE_BYTES:
        return None
    try:
        (document, *_), *_ = parse_json(body)
    except (ValueError, TypeError, RecursionError):
        return None
    return document if isinstance(document, Mapping) else None


def encode_message(message: ReceivedMessage) -> bytes:
    """Return a message's bytes as they were in the Redis queue; for other brokers, as kombu would write them there."""
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
        # The headers have types that only AMQP can express. The body alone is kept.
        return _to_bytes(message.body)


def drain_undecodable(bus: BusRuntime, consumer_or_channel: CeleryConsumer) -> int:
    """Dead-letter quarantined bytes for at most DRAIN_TIME_LIMIT_S; return how many entries were drained.

    Each letter is stored before its entry is deleted. After a crash in between, the entry is drained again into the
    same letter. Does nothing for transports without a quarantine. Raises as `dead_letter`.
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
        letter = build_dead_letter(
            bus, error, "undecodable", delivery_id=letter_id, subscription="", queue=queue, raw=raw
        )
        dead_letter(bus, letter)
        channel.delete_undecodable(entry)
        drained += 1
    return drained


def _read_uuid(message: ReceivedMessage, header: str) -> str | None:
    value = read_headers(message).get(header)
    try:
        return str(UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _derive_letter_id(queue: str, *parts: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return str(uuid5(NAMESPACE_URL, f"petiole:undecodable:{queue}:{digest}"))


def _encode_stable_parts(message: ReceivedMessage) -> bytes:
    """Encode the parts of a message that a redelivery keeps: not its delivery tag, nor its consumer."""
    raw = getattr(message, "_raw", None)
    # For a malformed message kombu's fields have only the parts that could be parsed, so the raw message comes first.
    parts = dict(raw) if isinstance(raw, Mapping) else {"headers": message.headers, "properties": message.properties}
    for name in ("headers", "properties"):
        if isinstance(part := parts.get(name), Mapping):
            parts[name] = sorted((key, value) for key, value in part.items() if key not in _PER_DELIVERY_HEADERS)
    return repr((message.content_type, message.content_encoding, sorted(parts.items()))).encode("utf-8", "replace")


def _to_bytes(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


def _to_redis_format(message: ReceivedMessage) -> dict[str, Any]:
    received = message.delivery_info or {}
    delivery_info = {"exchange": received.get("exchange"), "routing_key": received.get("routing_key")}
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
    """Return a name from a message, shortened to 255 characters, lone surrogates escaped; empty if not text."""
    return value[:_MAX_NAME_LENGTH].encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""
