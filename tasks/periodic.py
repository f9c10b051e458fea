"""Periodic: what beat has done again and again; the schedule is in celeryconfig.py.

    system.tick               a regular signal for whatever goes by time
    system.metrics.summary    figures since the last summary: metrics.py
    memory.consolidation.due  time for the memory to clean up

Time is divided into slots as long as the interval. Task, message and event are named by schedule and slot: any number
of beats make one tick of each slot. A tick that is not handled within an interval is handled no more. While no worker
is at work, or the system is being shut down, beat sends nothing: there is nothing to pile up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from petiole.events.catalog.system import MetricsSummaryEvent, Tick, TickEvent
from petiole.events.event import MIN_PRIORITY
from petiole.tasks.broker.topology import PUBLISH_QUEUE, broker_priority, broker_queue
from petiole.tasks.operations import metrics
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusTask

if TYPE_CHECKING:
    from celery.result import AsyncResult

log = logging.getLogger(__name__)


class PeriodicTask(BusTask):
    """A task that is sent at most once for each slot. Subclasses say what is to be done in `run`."""

    abstract = True

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any] | None:
        """Send it for the slot that is now; not where nobody is at work. Beat calls this. Raises RedisError."""
        said = dict(kwargs or {})
        if not self.bus.stores.cluster_membership.has_active_workers():
            log.debug("periodic_task.skipped", extra={"task": self.name})
            return None
        said.setdefault("slot", slot_number(time.time(), said["interval_s"]))
        driver = self.bus.driver
        options.setdefault("task_id", slot_id(f"task {self.name}", said["interval_s"], said["slot"]))
        options.setdefault("queue", broker_queue(PUBLISH_QUEUE, MIN_PRIORITY, driver))
        options.setdefault("priority", broker_priority(MIN_PRIORITY, driver))
        return super().apply_async(args, said, **options)


class TickTask(PeriodicTask):
    """Publish the tick of a slot."""

    name = "petiole.tick"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        event = TickEvent(
            event_id=slot_id("tick", interval_s, slot),
            content=Tick(interval_s=interval_s, slot=slot),
            expires_at=datetime.now(UTC) + timedelta(seconds=interval_s),
        )
        return commit(self.bus, [validate(self.bus, event)])[0]


class MetricsTask(PeriodicTask):
    """Publish the figures since the last summary."""

    name = "petiole.metrics"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        figures = metrics.collect_metrics(self.bus, interval_s)
        event = MetricsSummaryEvent(event_id=slot_id("metrics", interval_s, slot), content=figures.report)
        publication = commit(self.bus, [validate(self.bus, event)])[0]
        if not publication.was_repeated:
            self.bus.stores.counters.save_summary(figures.counts, figures.until)
        return publication


def slot_number(moment: float, interval_s: float) -> int:
    """Number the slot that a time (s since 1970) falls into."""
    return int(moment / interval_s)


def slot_id(schedule: str, interval_s: float, slot: int) -> str:
    """Name what happens in a slot; the same three always give the same id."""
    return str(uuid5(NAMESPACE_URL, repr((schedule, interval_s, slot))))


def schedule(intervals: Mapping[type[PeriodicTask], float]) -> dict[str, dict[str, object]]:
    """Make beat's entries of tasks and their intervals in seconds; an interval of 0 is none.

    A task that comes too late is not run (`expires`). Each is named by its slot, so two beats do not double it.
    """
    return {
        task.name: {
            "task": task.name,
            "schedule": interval_s,
            "kwargs": {"interval_s": interval_s},
            "options": {"expires": interval_s},
        }
        for task, interval_s in intervals.items()
        if interval_s
    }
