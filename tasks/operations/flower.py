"""Flower's page of queues, for a broker with our transport: Flower knows kombu's lists, and deliveries wait in ours.

In the process of `celery … flower`, Flower is loaded before the app. Then its choice of a broker is extended by ours.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from petiole.tasks.broker.queue_stats import queue_depth
from petiole.tasks.operations.metrics import read_queues

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

VIEWS = "flower.views"


class FlowerBroker:
    """What Flower asks of a broker."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus

    async def queues(self, names: Iterable[str]) -> list[dict[str, object]]:
        """Return for each queue what waits (ready), what workers have (unacknowledged), and both."""
        return await asyncio.to_thread(self._read, sorted(names))

    def _read(self, names: list[str]) -> list[dict[str, object]]:
        figures = read_queues(self._bus)
        with self._bus.app.connection_for_read() as connection:
            ready = {name: figures.depth.get(name) for name in names}
            depths = {
                name: queue_depth(self._bus, connection, name) if depth is None else depth
                for name, depth in ready.items()
            }
        return [_describe(name, depth, figures.in_flight.get(name, 0)) for name, depth in depths.items()]


def _describe(name: str, ready: int, unacknowledged: int) -> dict[str, object]:
    return {
        "name": name,
        "messages": ready + unacknowledged,
        "messages_ready": ready,
        "messages_unacknowledged": unacknowledged,
    }


def extend_flower(bus: BusRuntime) -> None:
    """Have Flower read the queues of a bus with our transport from the bus."""
    views: Any = sys.modules[VIEWS]
    known: Callable[..., object] = views.Broker

    def open_broker(url: str, *args: object, **options: object) -> object:
        with bus.app.connection_for_read() as connection:
            is_own = url.startswith("petiole+") and url == connection.as_uri(include_password=True)
        return FlowerBroker(bus) if is_own else known(url, *args, **options)

    views.Broker = open_broker
