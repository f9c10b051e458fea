"""Stall: a worker that is connected and handles nothing, although deliveries wait for it, is unhealthy and says so.

It is stalled if, for PETIOLE_STALL_TIMEOUT_S, no handler ran or began, and at each look a delivery waited: in a queue
that the worker consumes, in one of its agents that it should consume, or in the worker itself. Then it logs
`worker.stalled`, publishes `system.worker.stalled`, and its probes fail until a handler begins. Queues of paused agents
do not count, nor do tasks with a rate limit.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from celery.worker import state
from redis.exceptions import RedisError

from petiole.events.catalog.system import WorkerStall, WorkerStalledEvent
from petiole.events.errors import PetioleError
from petiole.tasks.broker.queue_stats import queue_depth
from petiole.tasks.broker.topology import logical_queue
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.instrumentation import OperationFailed, WorkerRecovered, WorkerStalled
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime

MAX_LOOK_INTERVAL_S = 10.0
LOOKS_PER_TIMEOUT = 4


class StallCheck:
    """Whether this worker is stalled."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._begun = -1
        self._waiting_since: float | None = None
        self._task_consumer: object = None
        self.problem: str | None = None
        """Why the worker counts as stalled; read by its probes."""

    def look(self, consumer: Any) -> None:
        """Compare with the last look. After a lost connection it starts again."""
        now, begun = time.monotonic(), state.all_total_count[0]
        has_progress = begun != self._begun or bool(state.active_requests)
        has_reconnected = consumer.task_consumer is not self._task_consumer
        self._begun, self._task_consumer = begun, consumer.task_consumer
        if has_progress or has_reconnected or not (waiting := self._waiting_queues(consumer)):
            self._waiting_since = None
            if has_progress and self.problem is not None:
                self.problem = None
                self._bus.instrumentation.emit(WorkerRecovered(worker=consumer.hostname))
            return
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        idle_s = now - self._waiting_since
        if self.problem is None and idle_s >= self._bus.settings.stall_timeout_s:
            self._report(consumer.hostname, waiting, idle_s)

    def _waiting_queues(self, consumer: Any) -> list[str]:
        """Return the queues of this worker with deliveries that wait; those that it has itself count, too."""
        if any(consumer.task_buckets.values()):
            return []
        heartbeat = getattr(consumer, "heartbeat", None)
        consumed = {logical_queue(name) for name in consumer.app.amqp.queues.consume_from}
        queues = sorted(consumed.union(heartbeat.unpaused_agents if heartbeat else ()))
        if state.reserved_requests:
            return queues
        if self._bus.publishes_atomically:
            deliveries = self._bus.stores.deliveries
            if deliveries.are_empty(queues):
                return []
            return [queue for queue in queues if not deliveries.are_empty([queue])]
        with self._bus.app.connection_for_read() as connection:
            return [queue for queue in queues if queue_depth(self._bus, connection, queue)]

    def _report(self, worker: str, queues: list[str], idle_s: float) -> None:
        self.problem = f"{worker} has begun no delivery for {idle_s:.0f} s, and some wait for {', '.join(queues)}"
        self._bus.instrumentation.emit(WorkerStalled(worker=worker, queues=tuple(queues), idle_s=idle_s))
        event = WorkerStalledEvent(content=WorkerStall(worker=worker, queues=tuple(queues), idle_s=idle_s))
        try:
            commit(self._bus, [validate(self._bus, event)], capacity_timeout=timedelta(0))
        except (PetioleError, RedisError) as error:
            self._bus.instrumentation.emit(OperationFailed(operation="stall.publish_failed", exception=error))


def _interval_s(bus: BusRuntime) -> float:
    return min(MAX_LOOK_INTERVAL_S, bus.settings.stall_timeout_s / LOOKS_PER_TIMEOUT)


def _check_stall(bus: BusRuntime, consumer: Any) -> float:
    bus.resource(StallCheck).look(consumer)
    return _interval_s(bus)


CHECK_STALL = PeriodicJob("check_stall", MAX_LOOK_INTERVAL_S, _check_stall)
