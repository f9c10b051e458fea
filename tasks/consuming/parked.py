"""Take parked deliveries: a worker looks for those that it has what they need, in the queues that it consumes.

With our transport it fetches them directly, so that older workers of the queue do not take them first. With other
brokers they return to their queue; an older worker that takes them parks them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from petiole.tasks.broker.topology import logical_queue
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.delivery import DeliveryTask
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.parked import Need
from petiole.tasks.transport.channel import BatchingChannel

LOOK_INTERVAL_S = 5.0
"""How often an idle worker looks for parked deliveries."""

_BUSY_INTERVAL_S = 1.0

_FETCHED_FOR_S = 60.0
"""How long a worker continues to fetch what a need has parked, after it was empty."""


class _Needs:
    """What this worker can serve, with the time when it was seen last."""

    def __init__(self, _: BusRuntime) -> None:
        self.seen_at: dict[Need, float] = {}


def _take_parked(bus: BusRuntime, consumer: Any) -> float | None:
    queues = {logical_queue(name) for name in consumer.app.amqp.queues.consume_from}
    parked = [each.need for each in bus.stores.parked.read() if each.need.queue in queues]
    served = [need for need in parked if can_serve(bus, need)]
    channel = getattr(consumer.task_consumer, "channel", None)
    if bus.publishes_atomically and isinstance(channel, BatchingChannel):
        channel.parked_lists = [(need.queue, bus.stores.parked.lists(need)) for need in _fetched(bus, served)]
    else:
        for need in served:
            bus.stores.parked.release(need)
    return _BUSY_INTERVAL_S if parked else None


def _fetched(bus: BusRuntime, served: list[Need]) -> Mapping[Need, float]:
    now, needs = monotonic(), bus.resource(_Needs)
    seen_at = needs.seen_at | dict.fromkeys(served, now)
    needs.seen_at = {need: last for need, last in seen_at.items() if now - last < _FETCHED_FOR_S}
    return needs.seen_at


def can_serve(bus: BusRuntime, need: Need) -> bool:
    """Return whether this worker has what parked deliveries need."""
    if need.kind == "handler":
        return isinstance(bus.app.tasks.get(need.name), DeliveryTask)
    known = bus.event_registry.version_of(need.name)
    return known is not None and known >= need.version


TAKE_PARKED = PeriodicJob("take_parked", LOOK_INTERVAL_S, _take_parked)
