"""Find the subscriptions whose handlers no running worker has: they were renamed or removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from petiole.events.subscriptions import Subscription
from petiole.tasks.broker.topology import logical_queue
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._options import format_command

_INSPECT_TIMEOUT_S = 1.0


def find_without_handler(bus: BusRuntime, subscriptions: Iterable[Subscription]) -> set[str]:
    """Return the names of the subscriptions whose queue workers consume, none of which has the handler.

    Nothing is known of the queues of workers that do not reply in time, and of those that no worker consumes.
    """
    nodes = [worker.node for worker in bus.stores.cluster_membership.read().workers.values()]
    if not nodes:
        return set()
    inspect = bus.app.control.inspect(destination=nodes, timeout=_INSPECT_TIMEOUT_S, limit=len(nodes))
    queues, tasks = inspect.active_queues() or {}, inspect.registered() or {}
    handlers: defaultdict[str, set[str]] = defaultdict(set)
    for node in queues.keys() & tasks.keys():
        for queue in queues[node]:
            # Celery appends a task's limits to its name.
            handlers[logical_queue(queue["name"])] |= {name.partition(" ")[0] for name in tasks[node]}
    return {each.name for each in subscriptions if each.name not in handlers.get(each.queue, {each.name})}


def describe_without_handler(name: str) -> str:
    """Describe a subscription without a handler, and what to do."""
    return (
        f"no running worker has the handler {name}, so its events are parked; if it was renamed: "
        f"{format_command(f'subscriptions withdraw {name} --to NEW_NAME')}; if it was removed: --purge"
    )
