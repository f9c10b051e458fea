"""Queue statistics: the length of a queue, and the age of its oldest event. Prefetched messages do not count."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kombu import Connection, Queue

from petiole.tasks.broker.topology import broker_queues

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def queue_depth(bus: BusRuntime, connection: Connection, queue: str) -> int:
    """Count the deliveries and messages in a queue; 0 if it does not exist."""
    messages = sum(_queue_length(connection, broker_queue) for broker_queue in broker_queues(queue, bus.driver))
    return messages + (bus.stores.deliveries.depth(queue) if bus.publishes_atomically else 0)


def lag_s(bus: BusRuntime, connection: Connection, queue: str) -> float | None:
    """Return the age in seconds of the oldest event in a queue; None if it is empty, or the broker is not Redis."""
    if bus.driver != "redis":
        return None
    with connection.channel() as channel:
        redis_channel: Any = channel  # the stubs describe only what all transports have in common
        prefix, key_of = redis_channel.global_keyprefix, redis_channel._q_for_pri  # noqa: SLF001 - kombu has no public name for it
        keys = [f"{prefix}{key_of(queue, step)}" for step in redis_channel.priority_steps]
        times = [_published_at(message) for key in keys for message in redis_channel.client.lrange(key, -1, -1)]
    oldest_delivery = bus.stores.deliveries.oldest(queue) if bus.publishes_atomically else None
    oldest = min((time for time in (*times, oldest_delivery) if time is not None), default=None)
    return None if oldest is None else max(0.0, (bus.now() - oldest).total_seconds())


def _queue_length(connection: Connection, queue: str) -> int:
    # A passive declaration creates no queue. On AMQP a missing queue closes the channel, so this one is separate.
    with connection.channel() as channel:
        try:
            declared: Any = Queue(queue).queue_declare(passive=True, channel=channel)
            return int(declared.message_count)
        except connection.channel_errors:
            return 0


def _published_at(message: bytes) -> datetime | None:
    """Read when the event of a message was published; None for any other message."""
    try:
        decoded = json.loads(message)
        body = decoded["body"]
        if decoded["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        (document, *_), *_ = json.loads(body)
        return datetime.fromisoformat(document["timestamp"])
    except (ValueError, KeyError, TypeError):
        return None
