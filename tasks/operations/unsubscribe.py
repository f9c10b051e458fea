"""Unsubscribe: remove a subscription, and handle or delete its queued deliveries.

    drain(bus, "shop.offer")               waiting deliveries are handled while a worker has the handler
    purge(bus, "shop.offer")               waiting deliveries are deleted and counted
    reroute(bus, "shop.offer", "shop.buy") waiting deliveries go to the other subscription: the handler was renamed

Nothing new is sent in any case.

Deliveries that a worker has fetched are handled in both cases. A worker that still has the handler registers the
subscription again when it starts: remove the handler from the code first.
"""

from __future__ import annotations

import difflib
import json
from itertools import islice
from typing import Any

from petiole.events.errors import UsageError, cannot_purge, unknown_subscription
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
    in_lists = groups.remove_queued(name, _waiting_lists(bus, subscription.queue))
    return in_groups + in_lists + _remove_queued(bus, subscription)


def reroute(bus: BusRuntime, name: str, to: str) -> int:
    """Remove a subscription and move its waiting deliveries to another one; returns how many. Safe to repeat.

    Ordered deliveries keep their order. Deliveries that a worker has fetched, or that wait for a retry, are not moved.

    Raises: UsageError (unknown_subscription); UsageError (cannot_purge), before the subscription is removed.
    """
    source, target = _require_subscription(bus, name), _require_subscription(bus, to)
    if not bus.publishes_atomically:
        raise cannot_purge(name, source.queue, bus.driver)
    if source == target:
        raise UsageError(f"{name!r} is the subscription itself; name the one that gets its deliveries")
    bus.stores.directory.unregister(name)
    return bus.stores.message_groups.reroute(name, _waiting_lists(bus, source.queue), target)


def _waiting_lists(bus: BusRuntime, queue: str) -> list[str]:
    return [*bus.stores.message_groups.queue_lists(queue), *bus.stores.parked.queue_lists(queue)]


def _require_subscription(bus: BusRuntime, name: str) -> Subscription:
    _, subscriptions = bus.stores.directory.read()
    by_name = _withdrawn(bus) | {subscription.name: subscription for subscription in subscriptions}
    if name not in by_name:
        raise unknown_subscription(name, next(iter(difflib.get_close_matches(name, by_name, n=1)), None))
    return by_name[name]


def _withdrawn(bus: BusRuntime) -> dict[str, Subscription]:
    """Return the handlers of parked deliveries, whose subscriptions may have been removed before."""
    names = [parked.need.name for parked in bus.stores.parked.read() if parked.need.kind == "handler"]
    parts = [(name, *name.split(".")) for name in names]
    # The patterns of a removed subscription are not needed any more.
    return {name: Subscription(agent=agent, function=function, patterns=("*",)) for name, agent, function in parts}


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
