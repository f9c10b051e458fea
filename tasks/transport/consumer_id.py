"""Who holds a message: the names by which a lease is known at the broker and in a task.

A *holder* is one worker process. Its id stays the same over reconnections, and a process that is forked off gets one of
its own. What a holder took stands under its id in the hash `leased_key`, until it is acknowledged, given back, or taken
from a holder that is gone. A task's message carries the id in the header `CONSUMER_HEADER` while a worker has it, and
never where it is stored: a step at the broker may thus tell who still holds what it acts for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import uuid4

CONSUMER_HEADER = "petiole_consumer"
CHECKED_HEADER = "petiole_checked_at"
"""When the step that took the message admitted it, by this machine's monotonic clock; 0: it did not. Without a ledger,
the header is not there. See ledger.py."""

OWN_HEADERS = {CONSUMER_HEADER, CHECKED_HEADER}
"""What the transport writes into a task's message that it hands over; none of the sender's words."""

_SEPARATOR = "\x06\x16"  # kombu's


def current_consumer_id() -> str:
    """Return the id of this process as a holder."""
    return _consumer_id_of(os.getpid())


@cache
def _consumer_id_of(pid: int) -> str:  # noqa: ARG001 - a forked process asks for its own
    return str(uuid4())


def leased_key(transport_options: Mapping[str, Any]) -> str:
    """Name the hash of who holds what (delivery tag to holder id), by the options of an app's broker."""
    return _unacked_key("leased", transport_options)


def consumers_key(transport_options: Mapping[str, Any]) -> str:
    """Name the sorted set of when each holder was last heard of (server's time in s)."""
    return _unacked_key("consumers", transport_options)


def _unacked_key(name: str, options: Mapping[str, Any]) -> str:
    prefix = options.get("global_keyprefix", "")
    return f"{prefix}{options.get('unacked_key', 'unacked')}{options.get('sep', _SEPARATOR)}{name}"


def add_transport_headers(payload: Any, admitted_at: float | None = None) -> Any:
    """Write the holder into a task's message that is handed over; other messages arrive as they were sent."""
    if _is_task(payload):
        headers = payload["headers"]
        headers[CONSUMER_HEADER] = current_consumer_id()
        headers.pop(CHECKED_HEADER, None)
        if admitted_at is not None:
            headers[CHECKED_HEADER] = admitted_at
    return payload


def remove_transport_headers(payload: Any) -> Any:
    """Return a message that is put into a queue without our headers: Celery's retry copies what it does not know."""
    if not _is_task(payload) or CONSUMER_HEADER not in payload["headers"]:
        return payload
    headers = {name: value for name, value in payload["headers"].items() if name not in OWN_HEADERS}
    return {**payload, "headers": headers}


def _is_task(payload: Any) -> bool:
    headers = payload.get("headers") if isinstance(payload, dict) else None
    return isinstance(headers, dict) and "task" in headers
