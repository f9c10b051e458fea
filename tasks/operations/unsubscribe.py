"""Withdrawal: a subscription ends. What still waits for it is drained or purged, as whoever withdraws it says.

    drain(bus, "shop.offer")    nothing new is sent; what waits is handled, as long as a worker has the handler
    purge(bus, "shop.offer")    nothing new is sent; what waits is removed, and counted

What workers hold already is handled in both cases. A worker that still has the handler announces it anew when it
starts: take it out of the code first.
"""

from __future__ import annotations

import difflib
import json
from itertools import islice
from typing import Any

from petiole.events.errors import cannot_purge, unknown_subscription
from petiole.events.subscriptions import Subscription
from petiole.tasks.runtime import BusRuntime

_PURGED_AT_ONCE = 500


def drain(bus: BusRuntime, name: str) -> None:
    """Withdraw a subscription and leave what waits for it in its queue. Raises UsageError (unknown_subscription)."""
    bus.stores.directory.withdraw(_known(bus, name).name)


def purge(bus: BusRuntime, name: str) -> int:
    """Withdraw a subscription, and remove the deliveries that wait for it; returns how many. Redis and Valkey only.

    Raises: UsageError (unknown_subscription); UsageError (cannot_purge), before anything is withdrawn.
    """
    subscription = _known(bus, name)
    if bus.driver != "redis":
        raise cannot_purge(name, subscription.queue, bus.driver)
    # Withdrawn first: whoever publishes from here on sends nothing that would have to be removed as well.
    bus.stores.directory.withdraw(name)
    in_turn = bus.stores.mailboxes.empty(subscription) if subscription.ordered_by else 0
    return in_turn + _remove_waiting(bus, subscription)


def _known(bus: BusRuntime, name: str) -> Subscription:
    _, subscriptions = bus.stores.directory.read()
    by_name = {each.name: each for each in subscriptions}
    if name not in by_name:
        raise unknown_subscription(name, next(iter(difflib.get_close_matches(name, by_name, n=1)), None))
    return by_name[name]


def _remove_waiting(bus: BusRuntime, subscription: Subscription) -> int:
    with bus.app.connection_for_write() as connection, connection.channel() as channel:
        redis_channel: Any = channel  # kombu's stubs know only what all transports have in common
        return sum(
            _remove_from(redis_channel.client, key, subscription.name)
            for key in _lists(redis_channel, subscription.queue)
        )


def _lists(channel: Any, queue: str) -> list[str]:
    """Name the lists that a queue consists of on Redis: one for each step of priority."""
    return [f"{channel.global_keyprefix}{channel._q_for_pri(queue, step)}" for step in channel.priority_steps]  # noqa: SLF001 - kombu has no public name for it


def _remove_from(client: Any, key: str, task: str) -> int:
    """Remove a task's messages from a list; those that a worker takes meanwhile are neither removed nor counted."""
    messages = (message for message in client.lrange(key, 0, -1) if _task_of(message) == task)
    removed = 0
    while batch := list(islice(messages, _PURGED_AT_ONCE)):
        with client.pipeline(transaction=False) as pipe:
            for message in batch:
                # From the end that workers take from: the oldest stand there.
                pipe.lrem(key, -1, message)
            removed += sum(pipe.execute())
    return removed


def _task_of(message: bytes) -> str | None:
    try:
        task = json.loads(message)["headers"]["task"]
    except (ValueError, KeyError, TypeError):
        return None  # no message of Celery's: it is not ours to remove
    return task if isinstance(task, str) else None
