"""Consumer id: identifies the process that has leased a message, at the broker and in a task.

A consumer is one worker process. Its id stays the same after a reconnection; a forked process gets its own. The hash
`leased_key` maps the messages that it has fetched to its id, until each is acknowledged or requeued. A task's message
carries the id in the header `CONSUMER_HEADER` only while a worker has it, and never in a queue. So a script can check
whether the consumer that calls it still has the lease.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import uuid4

CONSUMER_HEADER = "petiole_consumer"
CHECKED_HEADER = "petiole_checked_at"
"""When the fetch checked the message for a duplicate, by this machine's monotonic clock; 0 if it did not. The header is
missing if there is no delivery log (delivery_log.py)."""

OWN_HEADERS = {CONSUMER_HEADER, CHECKED_HEADER}
"""The headers that the transport adds to a task's message when it hands it over."""

_SEPARATOR = "\x06\x16"  # kombu's


def current_consumer_id() -> str:
    """Return the consumer id of this process."""
    return _consumer_id_of(os.getpid())


@cache
def _consumer_id_of(pid: int) -> str:  # noqa: ARG001 - the cache key: a forked process gets its own
    return str(uuid4())


def leased_key(transport_options: Mapping[str, Any]) -> str:
    """Return the key of the hash from delivery tag to consumer id, by the app's transport options."""
    return _unacked_key("leased", transport_options)


def consumers_key(transport_options: Mapping[str, Any]) -> str:
    """Return the key of the sorted set of consumer ids by their last heartbeat (server's time in seconds)."""
    return _unacked_key("consumers", transport_options)


def _unacked_key(name: str, options: Mapping[str, Any]) -> str:
    prefix = options.get("global_keyprefix", "")
    return f"{prefix}{options.get('unacked_key', 'unacked')}{options.get('sep', _SEPARATOR)}{name}"


def add_transport_headers(payload: Any, checked_at: float | None = None) -> Any:
    """Add our headers to a task's message that is handed over; other messages stay unchanged."""
    if _is_task(payload):
        headers = payload["headers"]
        headers[CONSUMER_HEADER] = current_consumer_id()
        headers.pop(CHECKED_HEADER, None)
        if checked_at is not None:
            headers[CHECKED_HEADER] = checked_at
    return payload


def remove_transport_headers(payload: Any) -> Any:
    """Return a message without our headers, for a queue: Celery's retry copies headers that it does not know."""
    if not _is_task(payload) or CONSUMER_HEADER not in payload["headers"]:
        return payload
    headers = {name: value for name, value in payload["headers"].items() if name not in OWN_HEADERS}
    return {**payload, "headers": headers}


def _is_task(payload: Any) -> bool:
    headers = payload.get("headers") if isinstance(payload, dict) else None
    return isinstance(headers, dict) and "task" in headers
