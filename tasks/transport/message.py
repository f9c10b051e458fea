"""Message: what was fetched as a message of kombu's; one with invalid fields gets an error instead of raising one.

If a message's text is JSON but its body is not base64 or its headers are a list, kombu raises in the worker's event
loop. Here the error is stored in `errors`, as kombu does if a body cannot be decompressed, and the message is passed
to its consumer's `on_decode_error`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from kombu.transport import virtual
from kombu.utils.json import loads

from petiole.events.ids import delivery_id
from petiole.events.texts import check_json_values
from petiole.tasks.stores.deliveries import (
    DEAD_LETTER_HEADER,
    ENTRY_HEADER,
    MESSAGE_GROUP_HEADER,
    REPLAY_HEADER,
    QueueEntry,
)
from petiole.tasks.transport.commands import Fetched
from petiole.tasks.transport.consumer_id import CONSUMER_HEADER, FETCHED_HEADER, OWN_HEADERS

DECODE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors of kombu's JSON decoder; its hook for typed values calls constructors that the text names."""

MAX_MESSAGE_BYTES = 67_108_864
"""The largest message that is parsed. Parsed JSON takes up to 20 times the memory of its text."""

_TYPES: dict[str, Any] = {
    "body": (str, type(None)),
    "headers": (dict, type(None)),
    "content-type": (str, type(None)),
    "content-encoding": (str, type(None)),
}


class Message(virtual.Message):
    """A message; `errors` holds the error if a field is invalid."""

    _raw: Any
    errors: Any
    body: Any

    def __init__(self, payload: Any, channel: Any | None = None, **options: Any) -> None:
        try:
            _check(payload)
            super().__init__(payload, channel=channel, **options)
        except DECODE_ERRORS:
            self.errors = [sys.exc_info()]
            super().__init__(_drop_invalid_fields(payload), channel=channel, **options)
            self.body = str(payload.get("body") or "").encode("utf-8", "surrogatepass")
            self._raw = payload


def _check(payload: Mapping[str, Any]) -> None:
    for name, types in _TYPES.items():
        if not isinstance(payload.get(name), types):
            raise TypeError(f"the {name} of a message must not be a {type(payload[name]).__name__}")
    if not isinstance(payload["properties"].get("delivery_info", {}), dict):
        raise TypeError("the delivery_info of a message must be an object")


def _drop_invalid_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the delivery tag, which identifies the message at the broker, and the valid fields."""
    properties = payload["properties"]
    valid = {"delivery_tag": properties["delivery_tag"]}
    if isinstance(properties.get("delivery_info"), dict):
        valid["delivery_info"] = properties["delivery_info"]
    texts = {name: payload[name] for name in ("content-type", "content-encoding") if isinstance(payload.get(name), str)}
    headers = payload.get("headers")
    return {"properties": valid, "headers": headers if isinstance(headers, dict) else {}, **texts}


def build_payload(fetched: Fetched, consumer_id: str, fetched_at: float = 0.0) -> dict[str, Any]:
    """Build the payload of kombu's message for what was fetched.

    Args:
        fetched: a queue entry and its event.
        consumer_id: the consumer that leases it.
        fetched_at: when it was fetched (`lease_clock`); 0 if it must be checked again before it runs.

    Raises: one of DECODE_ERRORS, for an invalid message.
    """
    entry = QueueEntry.parse(fetched.text)
    if len(entry.body) > MAX_MESSAGE_BYTES:
        raise ValueError(f"the message has {len(entry.body):,} bytes, the limit is {MAX_MESSAGE_BYTES:,}")
    if not entry.subscription:
        check_json_values(entry.body)
    payload = (
        _build_delivery(entry, entry.body or fetched.event, fetched.queue) if entry.subscription else loads(entry.body)
    )
    properties = payload["properties"]
    if not isinstance(properties, dict):
        raise TypeError("the properties of a message must be an object")
    # A delivery that is not leased has no tag at the broker; kombu's message needs one.
    properties["delivery_tag"] = fetched.tag or properties.get("delivery_tag") or str(uuid4())
    if entry.crashes is not None:
        for part in (payload.get("headers"), properties.get("delivery_info")):
            if isinstance(part, dict):
                part["redelivered"] = True
    if fetched.tag and is_task(payload):
        payload["headers"] |= {CONSUMER_HEADER: consumer_id, FETCHED_HEADER: fetched_at}
    return payload


def without_own_headers(payload: Any) -> Any:
    """Return a message without our headers, for a queue: Celery's retry copies headers that it does not know."""
    if not is_task(payload) or CONSUMER_HEADER not in payload["headers"]:
        return payload
    headers = {name: value for name, value in payload["headers"].items() if name not in OWN_HEADERS}
    return {**payload, "headers": headers}


def is_task(payload: Any) -> bool:
    """Return whether a payload is a task message."""
    headers = payload.get("headers") if isinstance(payload, dict) else None
    return isinstance(headers, dict) and "task" in headers


# The headers of Celery's protocol 2 that are the same for all deliveries.
_HEADERS: Mapping[str, Any] = MappingProxyType(
    {
        "lang": "py",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "timelimit": [None, None],
        "parent_id": None,
        "kwargsrepr": "",
        "origin": "",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
)

# Events are written with these fields first.
_EVENT_HEAD = re.compile(rb'\{"event_id":"([^"\\]+)","event_type":"([^"\\]+)"')


def _build_delivery(entry: QueueEntry, event: bytes, queue: str) -> dict[str, Any]:
    """Build the task message of an event's delivery, in Celery's protocol 2. Its argument is null without an event."""
    event_id, event_type = _identify(event)
    options = entry.options
    task_id = options.get("id") or delivery_id(event_id, entry.subscription)
    attempts = options.get("attempts", ())
    embed = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
    headers = {
        "task": entry.subscription,
        "id": task_id,
        "root_id": task_id,
        "retries": sum(bool(attempt.get("error_type")) for attempt in attempts),
        "argsrepr": event_type,
        MESSAGE_GROUP_HEADER: options.get("group"),
        REPLAY_HEADER: options.get("replay"),
        DEAD_LETTER_HEADER: options.get("letter"),
        ENTRY_HEADER: entry.head,
    }
    return {
        "body": f"[[{event.decode() or 'null'}], {{}}, {embed}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {**_HEADERS, **headers},
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


def delivery_id_of(entry: QueueEntry, event: bytes) -> str:
    """Return the id of an entry's delivery."""
    given = entry.options.get("id")
    return str(given) if given else delivery_id(_identify(entry.body or event)[0], entry.subscription)


def _identify(event: bytes) -> tuple[str, str]:
    match = _EVENT_HEAD.match(event)
    if match:
        return match[1].decode(), match[2].decode()
    document = json.loads(event) if event else {}
    attributes = document if isinstance(document, dict) else {}
    return str(attributes.get("event_id", "")), str(attributes.get("event_type", ""))
