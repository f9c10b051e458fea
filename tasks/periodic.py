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
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from celery import Task

from petiole.events.catalog.memory import ConsolidationDue, ConsolidationDueEvent
from petiole.events.catalog.system import MetricsSummaryEvent, Tick, TickEvent
from petiole.events.event import LEAST_URGENT
from petiole.tasks.broker.topology import PUBLISH_QUEUE, lane
from petiole.tasks.celery import EventApp, app
from petiole.tasks.operations import metrics
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.document import broker_priority
from petiole.tasks.publishing.validation import checked

if TYPE_CHECKING:
    from celery.result import AsyncResult

log = logging.getLogger(__name__)


class Periodic(Task[..., Any]):
    """A task that is sent at most once for each slot. Subclasses say what is to be done in `run`."""

    ignore_result = True
    app: EventApp

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any] | None:
        """Send it for the slot that is now; not where nobody is at work. Beat calls this. Raises RedisError."""
        said = dict(kwargs or {})
        if not self.app.stores.lifecycle.is_at_work():
            log.debug("periodic.skipped", extra={"task": self.name})
            return None
        said.setdefault("slot", slot_of(time.time(), said["interval_s"]))
        driver = self.app.driver
        options.setdefault("task_id", slot_id(f"task {self.name}", said["interval_s"], said["slot"]))
        options.setdefault("queue", lane(PUBLISH_QUEUE, LEAST_URGENT, driver))
        options.setdefault("priority", broker_priority(LEAST_URGENT, driver))
        return super().apply_async(args, said, **options)


class TickTask(Periodic):
    """Publish the tick of a slot."""

    name = "petiole.tick"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        event = TickEvent(
            event_id=slot_id("tick", interval_s, slot),
            content=Tick(interval_s=interval_s, slot=slot),
            expires_at=datetime.now(UTC) + timedelta(seconds=interval_s),
        )
        return dispatch(self.app, [checked(self.app, event)])[0]


class MetricsTask(Periodic):
    """Publish the figures since the last summary."""

    name = "petiole.metrics"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        figures = metrics.collect(self.app, interval_s)
        event = MetricsSummaryEvent(event_id=slot_id("metrics", interval_s, slot), content=figures.report)
        publication = dispatch(self.app, [checked(self.app, event)])[0]
        if not publication.was_repeated:
            self.app.stores.counters.keep_summary(figures.counts, figures.until)
        return publication


class ConsolidationTask(Periodic):
    """Publish that the memory is to be cleaned up."""

    name = "petiole.consolidation"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        content = ConsolidationDue(interval_s=interval_s, slot=slot)
        event = ConsolidationDueEvent(event_id=slot_id("consolidation", interval_s, slot), content=content)
        return dispatch(self.app, [checked(self.app, event)])[0]


def slot_of(moment: float, interval_s: float) -> int:
    """Number the slot that a time (s since 1970) falls into."""
    return int(moment / interval_s)


def slot_id(schedule: str, interval_s: float, slot: int) -> str:
    """Name what happens in a slot; the same three always give the same id."""
    return str(uuid5(NAMESPACE_URL, repr((schedule, interval_s, slot))))


tick: TickTask = app.adopt(TickTask)
summarize: MetricsTask = app.adopt(MetricsTask)
consolidation: ConsolidationTask = app.adopt(ConsolidationTask)
