"""Unsubscribe: remove a subscription, and handle or delete its queued deliveries.

    drain(bus, "shop.offer")    nothing new is sent; queued deliveries are handled while a worker has the handler
    purge(bus, "shop.offer")    nothing new is sent; queued deliveries are deleted and counted

Deliveries that a worker has fetched are handled in both cases. A worker that still has the handler registers the
subscription again when it starts: remove the handler from the code first.
"""

from __future__ import annotations

import difflib
import json
from itertools import islice
from typing import Any

from petiole.events.errors import cannot_purge, unknown_subscription
from petiole.events.subscriptions import Subscription
from petiole.tasks.runtime import BusRuntime

_PURGE_BATCH_SIZE = 500


def drain(bus: BusRuntime, name: str) -> None:
    """Remove a subscription and leave its queued deliveries. Raises UsageError (unknown_subscription)."""
    bus.stores.directory.unregister(_require_subscription(bus, name).name)


def purge(bus: BusRuntime, name: str) -> int:
    """Remove a subscription and delete its queued deliveries; returns how many. Redis and Valkey only.

    Raises: UsageError (unknown_subscription); UsageError (cannot_purge), before the subscription is removed.
    """
    subscription = _require_subscription(bus, name)
    if bus.driver != "redis":
        raise cannot_purge(name, subscription.queue, bus.driver)
    # Unregistered first, so that no publisher sends further deliveries.
    bus.stores.directory.unregister(name)
    groups = bus.stores.message_groups
    in_groups = groups.clear(subscription) if subscription.ordered_by else 0
    return in_groups + groups.remove_queued(subscription) + _remove_queued(bus, subscription)


def _require_subscription(bus: BusRuntime, name: str) -> Subscription:
    _, subscriptions = bus.stores.directory.read()
    by_name = {subscription.name: subscription for subscription in subscriptions}
    if name not in by_name:
        raise unknown_subscription(name, next(iter(difflib.get_close_matches(name, by_name, n=1)), None))
    return by_name[name]


def _remove_queued(bus: BusRuntime, subscription: Subscription) -> int:
    with bus.app.connection_for_write() as connection, connection.channel() as channel:
        redis_channel: Any = channel  # kombu's stubs type only what all transports share
        return sum(
            _remove_from(redis_channel.client, key, subscription.name)
            for key in _queue_lists(redis_channel, subscription.queue)
        )


def _queue_lists(channel: Any, queue: str) -> list[str]:
    """Return the Redis lists of a queue, one per priority step."""
    return [f"{channel.global_keyprefix}{channel._q_for_pri(queue, step)}" for step in channel.priority_steps]  # noqa: SLF001 - kombu has no public name for it


def _remove_from(client: Any, key: str, task: str) -> int:
    """Delete a task's messages from a list. Messages fetched by a worker meanwhile are not counted."""
    messages = (message for message in client.lrange(key, 0, -1) if _task_of(message) == task)
    removed = 0
    while batch := list(islice(messages, _PURGE_BATCH_SIZE)):
        with client.pipeline(transaction=False) as pipe:
            for message in batch:
                # From the end that workers fetch from, where the oldest are.
                pipe.lrem(key, -1, message)
            removed += sum(pipe.execute())
    return removed


def _task_of(message: bytes) -> str | None:
    try:
        task = json.loads(message)["headers"]["task"]
    except (ValueError, KeyError, TypeError):
        return None  # not a message of Celery; leave it
    return task if isinstance(task, str) else None
