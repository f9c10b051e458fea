"""Queue statistics: the length of a queue, and how long its oldest event waits. Prefetched messages do not count."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kombu import Connection, Queue

from petiole.events.texts import parse_json
from petiole.tasks.broker.topology import DUE_HEADER, broker_queues

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


def queue_depth(bus: BusRuntime, connection: Connection, queue: str) -> int:
    """Count the deliveries and messages in a queue; 0 if it does not exist."""
    return queue_depths(bus, connection, (queue,))[queue]


def queue_depths(bus: BusRuntime, connection: Connection, queues: Sequence[str]) -> dict[str, int]:
    """Count as `queue_depth` does, for many queues: on Redis in two round trips."""
    if bus.driver != "redis":
        return {
            queue: sum(_queue_length(connection, each) for each in broker_queues(queue, bus.driver)) for queue in queues
        }
    with connection.channel() as channel:
        redis_channel: Any = channel  # the stubs describe only what all transports have in common
        key_of, steps = redis_channel._q_for_pri, redis_channel.priority_steps  # noqa: SLF001 - kombu has no public name for it
        with redis_channel.client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for step in steps:
                    pipe.llen(key_of(queue, step))  # kombu's client adds its prefix to this command
            lengths = iter(pipe.execute())
    messages = {queue: sum(next(lengths) for _ in steps) for queue in queues}
    deliveries = bus.stores.deliveries.depths(queues) if bus.publishes_atomically else {}
    return {queue: messages[queue] + deliveries.get(queue, 0) for queue in queues}


def queue_lags(bus: BusRuntime, connection: Connection, queues: Sequence[str]) -> dict[str, float]:
    """Return how long the oldest event in each queue that has one has waited there, in s; on Redis, in two round trips.

    A delayed event and a retry wait since they were due.
    """
    if bus.driver != "redis" or not queues:
        return {}
    with connection.channel() as channel:
        redis_channel: Any = channel  # the stubs describe only what all transports have in common
        prefix, key_of = redis_channel.global_keyprefix, redis_channel._q_for_pri  # noqa: SLF001 - kombu has no public name for it
        steps = redis_channel.priority_steps
        with redis_channel.client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for step in steps:
                    pipe.lrange(f"{prefix}{key_of(queue, step)}", -1, -1)  # kombu's client adds no prefix to this one
            ends = iter(pipe.execute())
    oldest = bus.stores.deliveries.oldest(queues) if bus.publishes_atomically else {}
    lags: dict[str, float] = {}
    for queue in queues:
        times = [_waits_since(message) for _ in steps for message in next(ends)]
        if known := [time for time in (*times, oldest.get(queue)) if time is not None]:
            lags[queue] = max(0.0, (bus.now() - min(known)).total_seconds())
    return lags


def _queue_length(connection: Connection, queue: str) -> int:
    # A passive declaration creates no queue. On AMQP a missing queue closes the channel, so this one is separate.
    with connection.channel() as channel:
        try:
            declared: Any = Queue(queue).queue_declare(passive=True, channel=channel)
            return int(declared.message_count)
        except connection.channel_errors:
            return 0


def _waits_since(message: bytes) -> datetime | None:
    """Read when the event of a message was due or published; None for any other message."""
    try:
        decoded = parse_json(message)
        since = decoded["headers"].get(DUE_HEADER)
        if since is None:
            body = decoded["body"]
            if decoded["properties"].get("body_encoding") == "base64":
                body = base64.b64decode(body)
            (document, *_), *_ = parse_json(body)
            since = document["timestamp"]
        return datetime.fromisoformat(since).astimezone(UTC)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
