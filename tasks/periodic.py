"""The Celery tasks `petiole.tick` and `petiole.metrics`, which beat sends periodically.

    system.tick               a regular signal for handlers that act by time
    system.metrics.summary    metrics since the last summary: tasks/operations/metrics.py

`schedule` makes the entries of Celery's `beat_schedule`. Time is divided into slots of one interval each. The ids of
task, message and event derive from schedule and slot, so several beat processes publish one event for each slot. An
event that is not handled within one interval expires. Beat sends nothing while no worker is active or the system is
shutting down, so no backlog builds up.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from redis.exceptions import ResponseError

from petiole.events.event import MIN_PRIORITY
from petiole.tasks.broker.topology import PUBLISH_QUEUE, broker_priority, broker_queue
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusTask

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from petiole.tasks.runtime import BusRuntime

log = logging.getLogger(__name__)


class PeriodicTask(BusTask):
    """A task that is sent at most once for each slot. Subclasses implement `run`."""

    abstract = True

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any] | None:
        """Send the task for the current slot, unless no worker is active. Beat calls this. Raises RedisError."""
        arguments = dict(kwargs or {})
        if not self.bus.stores.cluster_membership.has_active_workers():
            log.debug("periodic_task.skipped", extra={"task": self.name})
            return None
        arguments.setdefault("slot", slot_number(self.bus.now().timestamp(), arguments["interval_s"]))
        self.bus.redis.client_setname(_beat_name(self.bus))
        driver = self.bus.driver
        options.setdefault("task_id", slot_id(f"task {self.name}", arguments["interval_s"], arguments["slot"]))
        options.setdefault("queue", broker_queue(PUBLISH_QUEUE, MIN_PRIORITY, driver))
        options.setdefault("priority", broker_priority(MIN_PRIORITY, driver))
        return super().apply_async(args, arguments, **options)

    def __call__(self, *, interval_s: float, slot: int) -> Any:
        """Run the task, unless it has waited longer than its interval.

        Celery's `expires` would compare the clocks of beat and of a worker.
        """
        if slot_number(self.bus.now().timestamp(), interval_s) > slot + 1:
            log.info("periodic_task.expired", extra={"task": self.name, "slot": slot})
            return None
        return self.run(interval_s=interval_s, slot=slot)


class TickTask(PeriodicTask):
    """Publish `system.tick` for a slot."""

    name = "petiole.tick"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish the event; a repetition for the same slot publishes nothing."""
        from petiole.events.catalog.system import Tick, TickEvent

        event = TickEvent(
            event_id=slot_id("tick", interval_s, slot),
            content=Tick(interval_s=interval_s, slot=slot),
            expires_at=self.bus.now() + timedelta(seconds=interval_s),
        )
        return commit(self.bus, [validate(self.bus, event)])[0]


class MetricsTask(PeriodicTask):
    """Publish the metrics since the last summary."""

    name = "petiole.metrics"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish the event; a repetition for the same slot publishes nothing."""
        from petiole.events.catalog.system import MetricsSummaryEvent
        from petiole.tasks.operations import metrics

        summary = metrics.collect_metrics(self.bus, interval_s)
        event = MetricsSummaryEvent(event_id=slot_id("metrics", interval_s, slot), content=summary.report)
        publication = commit(self.bus, [validate(self.bus, event)])[0]
        if not publication.was_repeated:
            self.bus.stores.counters.save_summary(summary.counts, summary.until)
        return publication


def find_beats(bus: BusRuntime) -> tuple[str, ...] | None:
    """Return the processes that send periodic tasks, as host:pid; None if the server lists no clients.

    A beat names its connection to the state store when it sends a task, so it is found from its first task on.
    """
    prefix = f"beat:{bus.settings.key_prefix}:"
    try:
        clients: list[dict[str, str]] = bus.redis.client_list()
    except ResponseError:  # managed servers may forbid it
        return None
    names = {client["name"].removeprefix(prefix) for client in clients if client["name"].startswith(prefix)}
    return tuple(sorted(names))


def _beat_name(bus: BusRuntime) -> str:
    return f"beat:{bus.settings.key_prefix}:{socket.gethostname()}:{os.getpid()}"


def slot_number(moment: float, interval_s: float) -> int:
    """Return the number of the slot that contains `moment` (Unix time in seconds)."""
    return int(moment / interval_s)


def slot_id(schedule: str, interval_s: float, slot: int) -> str:
    """Derive the id of a slot's task or event; the same arguments always give the same id."""
    return str(uuid5(NAMESPACE_URL, repr((schedule, interval_s, slot))))


def schedule(intervals: Mapping[type[PeriodicTask], float]) -> dict[str, dict[str, object]]:
    """Make the entries of Celery's `beat_schedule`.

    Args:
        intervals: interval of each task in seconds; 0 leaves the task out.
    """
    return {
        task.name: {
            "task": task.name,
            "schedule": interval_s,
            "kwargs": {"interval_s": interval_s},
        }
        for task, interval_s in intervals.items()
        if interval_s
    }
