"""EventCounter: a listener that counts events and deliveries, and adds its counts to those of all processes.

A count travels from a record to the state store within WRITE_INTERVAL_S, in one call for all records of that time:

    a process that publishes or handles    a thread writes what has been counted
    the main process of a prefork worker   writes at once, as it must start no thread; few records are emitted there

While the store is unavailable, counts stay in memory and are written later. Why not Prometheus' multiprocess mode:
docs/decisions/0044-counts-in-the-state-store.md.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from celery.signals import worker_process_shutdown

from petiole.tasks.instrumentation import EventPublished, PublishFailed, Record
from petiole.tasks.instrumentation.worker_records import (
    DeliveryDeadLettered,
    DeliveryDeferred,
    DeliveryFinished,
    DeliveryLeaseLost,
    DeliveryParked,
    DeliveryRecord,
    DeliveryRetrying,
    HandlerRan,
    ModelUsed,
)
from petiole.tasks.stores.event_counts import OTHER, EventCount

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 0.02
"""How long a count stays in a process, and so what a killed process may lose of its counts."""

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper ends of the histograms' buckets, in seconds: from a lookup to a long answer of a model."""

ABOVE = "inf"
"""The bucket above the last."""

_STORE_RETRY_INTERVAL_S = 1.0
_MAX_UNWRITTEN = 10_000
"""How many different counts a process keeps while the store is unavailable."""

_MAX_AMOUNT = 1e15
"""A greater amount is dropped, as is one that is negative or NaN: the store would refuse it, and all beside it."""

_OUTCOMES: Mapping[type[DeliveryRecord], str] = {
    DeliveryRetrying: "retried",
    DeliveryDeferred: "deferred",
    DeliveryDeadLettered: "dead_lettered",
    DeliveryLeaseLost: "lease_lost",
    DeliveryParked: "parked",
}


class EventCounter:
    """Counts records; an instance is a listener.

    Args:
        write: adds counts to those in the state store.
        forking_pid: returns the process that must start no thread, if there is one.
    """

    def __init__(
        self, write: Callable[[Mapping[EventCount, float]], None], forking_pid: Callable[[], int | None]
    ) -> None:
        self._write = write
        self._forking_pid = forking_pid
        self._is_failing = False
        self._unwritten: dict[EventCount, float] = {}
        self._begin()
        atexit.register(self.flush)
        worker_process_shutdown.connect(self._flush_at_shutdown, weak=False)

    def __call__(self, record: Record) -> None:
        """Count a record."""
        if self._pid != os.getpid():
            self._begin()  # the parent of this process writes what the parent has counted
        amounts = list(count_record(record))
        if not amounts:
            return
        with self._lock:
            for count, amount in amounts:
                self._add(count, amount)
        if self._pid == self._forking_pid():
            self.flush()
        else:
            self._wake()

    def flush(self) -> bool:
        """Write what has been counted; return whether it is stored. Raises nothing: it is kept and written later."""
        with self._writing:
            with self._lock:
                amounts, self._unwritten = self._unwritten, {}
            if not amounts or self._pid != os.getpid():
                return True
            try:
                self._write(amounts)
            except Exception as error:  # noqa: BLE001 - logged; the thread that writes must not end
                self._keep(amounts, error)
                return False
            self._is_failing = False
            return True

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._counted = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwritten = {}

    def _add(self, count: EventCount, amount: float) -> None:
        if not 0 <= amount <= _MAX_AMOUNT:  # a model's answer may say anything, also NaN
            return
        if count not in self._unwritten and len(self._unwritten) >= _MAX_UNWRITTEN:
            count = count._replace(
                event_type=count.event_type and OTHER,
                subscription=count.subscription and OTHER,
                model=count.model and OTHER,
            )
        self._unwritten[count] = self._unwritten.get(count, 0) + amount

    def _keep(self, amounts: Mapping[EventCount, float], error: Exception) -> None:
        with self._lock:
            for count, amount in amounts.items():
                self._add(count, amount)
        if not self._is_failing:
            self._is_failing = True
            log.error("event_counts.write_failed", exc_info=error)

    def _wake(self) -> None:
        self._counted.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="petiole-event-counts", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while self._counted.wait():
            time.sleep(WRITE_INTERVAL_S)
            self._counted.clear()
            if not self.flush():
                time.sleep(_STORE_RETRY_INTERVAL_S)
                self._counted.set()

    def _flush_at_shutdown(self, **_: object) -> None:
        self.flush()


def count_record(record: Record) -> Iterator[tuple[EventCount, float]]:
    """Yield what a record adds to which count."""
    match record:
        case EventPublished():
            yield EventCount("event", record.event_type, detail="success"), 1
        case PublishFailed():
            yield EventCount("event", record.event_type, detail="error"), 1
        case HandlerRan():
            yield from _observe(EventCount("processing", record.event_type or ""), record.duration_s)
        case ModelUsed():
            yield EventCount("tokens", detail="input", model=record.model), record.input_tokens
            yield EventCount("tokens", detail="output", model=record.model), record.output_tokens
            if record.cost_usd is not None:
                yield EventCount("cost", detail="usd", model=record.model), record.cost_usd
        case DeliveryFinished(outcome="lease_lost"):
            pass  # DeliveryLeaseLost was emitted, too
        case DeliveryFinished():
            yield EventCount("delivery", record.event_type or "", record.subscription, record.outcome), 1
            if record.outcome == "handled" and record.age_s is not None:
                yield from _observe(EventCount("critical", "", record.subscription), record.age_s)
        case DeliveryRecord() if outcome := _OUTCOMES.get(type(record)):
            yield EventCount("delivery", record.event_type or "", record.subscription, outcome), 1


def _observe(count: EventCount, seconds: float) -> Iterator[tuple[EventCount, float]]:
    position = bisect_left(BUCKETS_S, seconds)
    yield count._replace(detail=str(BUCKETS_S[position]) if position < len(BUCKETS_S) else ABOVE), 1
    yield count._replace(detail="sum"), seconds
