"""Depths: how much waits in a queue, and for how long; what workers hold in advance is not in it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kombu import Connection, Queue

from petiole.tasks.broker.topology import broker_queues

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def queue_depth(bus: BusRuntime, connection: Connection, queue: str) -> int:
    """Count what waits in a queue; 0 where there is none."""
    return sum(_queue_length(connection, lane) for lane in broker_queues(queue, bus.driver))


def lag_s(bus: BusRuntime, connection: Connection, queue: str) -> float | None:
    """Tell the age in s of the event that waits longest in a queue; None where none does, or the broker shows none."""
    if bus.driver != "redis":
        return None
    with connection.channel() as channel:
        kombus: Any = channel  # kombu's stubs know only what all transports have in common
        lists = [f"{kombus.global_keyprefix}{kombus._q_for_pri(queue, step)}" for step in kombus.priority_steps]  # noqa: SLF001 - kombu has no public name for it
        moments = [_published_at(message) for name in lists for message in kombus.client.lrange(name, -1, -1)]
    oldest = min((moment for moment in moments if moment is not None), default=None)
    return None if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())


def _queue_length(connection: Connection, queue: str) -> int:
    # Asked passively, on a channel of its own: a queue that is not there yet is not made, and on AMQP ends the channel.
    with connection.channel() as channel:
        try:
            declared: Any = Queue(queue).queue_declare(passive=True, channel=channel)
            return int(declared.message_count)
        except connection.channel_errors:
            return 0


def _published_at(message: bytes) -> datetime | None:
    """Read when the event of a message was published; None where it is no message of ours."""
    try:
        read = json.loads(message)
        body = read["body"]
        if read["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        (document, *_), *_ = json.loads(body)
        return datetime.fromisoformat(document["timestamp"])
    except (ValueError, KeyError, TypeError):
        return None
