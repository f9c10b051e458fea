"""Maintenance: the periodic jobs that a worker runs while it consumes.

    renew_leases       1 s     renew the leases of this worker, and return those of lost ones: tasks/transport/leases.py
    send_due           0.5 s   send delayed messages that are due: tasks/publishing/delayed.py
    drain_undecodable  5 s     dead-letter undecodable bytes: tasks/settlement/undecodable.py
    take_parked        5 s     fetch parked deliveries that this worker can run: tasks/consuming/parked.py
    apply_retention    60 s    delete dead letters beyond their limits: tasks/dead_letters/retention.py
    heartbeat          2 s     report this worker and its agents: tasks/consuming/heartbeat.py
    restore_subscriptions 2 s  register its subscriptions again if they were lost: tasks/consuming/announcement.py
    check_stall        10 s    report that this worker handles nothing while deliveries wait: tasks/consuming/stall.py
    serve_metrics      5 s     write the page for Prometheus, if its port is set: tasks/consuming/metrics_server.py

These are the longest times between two runs. Each run returns when the next one is needed: `send_due` runs again when
the next message is due, and every 0.1 s in a worker that handles deliveries, whose retries may be due any moment. So a
delay of at least 0.5 s ends in time, and a shorter one on an idle cluster up to 0.5 s after the message was delayed.

A failing job is logged once as `job.failed`, and as `job.recovered` when it succeeds again. It stops neither the worker
nor other jobs. A job with `runs_during_shutdown` continues while a worker that is shutting down waits for its handlers.

In the prefork pool the jobs run on the event loop's timer, so they must be quick: a thread in the process that forks
could hold a lock at the moment of the fork. In other pools each job has its own thread, which runs while a handler
blocks the loop. When a prefork worker shuts down, it forks no more and its loop stops, so the jobs with
`runs_during_shutdown` get threads there too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.worker import state as worker_state

from petiole.tasks.consuming.announcement import RESTORE_SUBSCRIPTIONS
from petiole.tasks.consuming.heartbeat import HEARTBEAT
from petiole.tasks.consuming.metrics_server import SERVE_METRICS
from petiole.tasks.consuming.parked import TAKE_PARKED
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.consuming.stall import CHECK_STALL
from petiole.tasks.dead_letters import apply_retention
from petiole.tasks.instrumentation import JobFailed, JobRecovered
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.settlement.settlement import attempt_lease
from petiole.tasks.settlement.undecodable import drain_undecodable
from petiole.tasks.transport import leases

_JOIN_TIMEOUT_S = 1.0

_ACTIVE_S = 1.0
"""How long after a delivery a worker looks for due messages as often as a busy one."""

_BUSY_INTERVAL_S = 0.1

_PAUSE_BETWEEN_BATCHES_S = 0.01
"""Lets the event loop do other work between two batches of due messages."""


class PeriodicJobs(bootsteps.StartStopStep):
    """A step of the consumer that runs periodic jobs. Celery stops and starts it at every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    jobs: tuple[PeriodicJob, ...] = ()

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._failing: set[str] = set()
        self._timers: dict[str, Any] = {}
        self._ended = Event()
        self._threads: list[Thread] = []

    def start(self, consumer: Any) -> None:
        """Start the jobs before the first message is fetched."""
        for job in self._shutdown_jobs:
            self._run_job(job, consumer)
        if isinstance(consumer.pool, ProcessPool):
            for job in self.jobs:
                self._set_timer(job, consumer, 0.0)
            self._keep_running_in_soft_shutdown(consumer)
        else:
            self._start_threads(self.jobs, consumer)

    def stop(self, consumer: Any) -> None:
        """Stop the jobs; if the worker is shutting down, continue those with `runs_during_shutdown`."""
        self._stop_threads()
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._start_threads(self._shutdown_jobs, consumer)

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's
        """Stop all jobs, after the last handler has ended."""
        self._stop_threads()

    @property
    def _shutdown_jobs(self) -> list[PeriodicJob]:
        return [job for job in self.jobs if job.runs_during_shutdown]

    def _run_job(self, job: PeriodicJob, consumer: Any) -> float:
        """Run a job and return the seconds until its next run."""
        bus, wait_s = bus_of(consumer.app), None
        try:
            wait_s = job.function(bus, consumer)
        except Exception as error:  # noqa: BLE001 - reported; the worker continues and the job runs again
            if job.name not in self._failing:
                self._failing.add(job.name)
                bus.instrumentation.emit(JobFailed(job=job.name, exception=error))
        else:
            if job.name in self._failing:
                self._failing.discard(job.name)
                bus.instrumentation.emit(JobRecovered(job=job.name))
        return job.interval_s if wait_s is None else min(wait_s, job.interval_s)

    def _set_timer(self, job: PeriodicJob, consumer: Any, wait_s: float) -> None:
        self._timers[job.name] = consumer.timer.call_after(wait_s, self._run_on_timer, (job, consumer))

    def _run_on_timer(self, job: PeriodicJob, consumer: Any) -> None:
        self._set_timer(job, consumer, self._run_job(job, consumer))

    def _start_threads(self, jobs: Sequence[PeriodicJob], consumer: Any) -> None:
        ended = self._ended = Event()
        self._threads = [
            Thread(target=self._repeat, args=(job, consumer, ended), name=f"petiole-job {job.name}", daemon=True)
            for job in jobs
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, job: PeriodicJob, consumer: Any, stopping: Event) -> None:
        wait_s = 0.0
        while not stopping.wait(wait_s):
            wait_s = self._run_job(job, consumer)

    def _stop_threads(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._ended.set()
        for thread in self._threads:
            # A job that waits for the broker ends after the broker's response.
            thread.join(_JOIN_TIMEOUT_S)
        self._timers, self._threads = {}, []

    def _keep_running_in_soft_shutdown(self, consumer: Any) -> None:
        """Run the jobs in threads during Celery's soft shutdown, which blocks the loop in a signal handler."""
        worker = consumer.controller
        wait = type(worker).wait_for_soft_shutdown
        worker.wait_for_soft_shutdown = partial(self._soft_shutdown, consumer, partial(wait, worker))

    def _soft_shutdown(self, consumer: Any, wait: Callable[[], object]) -> None:
        if not self._threads:
            self._start_threads(self._shutdown_jobs, consumer)
        wait()


def _renew_leases(bus: BusRuntime, consumer: Any) -> None:
    if consumer.task_consumer:
        leases.renew_leases(consumer.task_consumer.channel)
    running = [request.id for request in tuple(worker_state.active_requests)]
    lease = attempt_lease(bus)
    if lease is not None and running:
        bus.stores.attempts.renew(running, lease)


class _Activity:
    """Whether deliveries have begun in this worker within the last second."""

    def __init__(self, _: BusRuntime) -> None:
        self._begun, self._last_at = 0, float("-inf")

    def is_recent(self) -> bool:
        begun, now = worker_state.all_total_count[0], monotonic()
        if begun != self._begun or worker_state.reserved_requests:
            self._begun, self._last_at = begun, now
        return now - self._last_at < _ACTIVE_S


def _send_due(bus: BusRuntime, _: Any) -> float:
    due_in_s = bus.stores.delayed_messages.seconds_until_due()
    if due_in_s <= 0:
        send_due(bus)
        return _PAUSE_BETWEEN_BATCHES_S
    return min(due_in_s, _BUSY_INTERVAL_S) if bus.resource(_Activity).is_recent() else due_in_s


def _drain_undecodable(bus: BusRuntime, consumer: Any) -> float | None:
    return 1.0 if drain_undecodable(bus, consumer) else None


def _apply_retention(bus: BusRuntime, _: Any) -> None:
    apply_retention(bus)


SEND_DUE = PeriodicJob("send_due", 0.5, _send_due)

JOBS = (
    PeriodicJob("renew_leases", leases.HEARTBEAT_INTERVAL_S, _renew_leases, runs_during_shutdown=True),
    SEND_DUE,
    PeriodicJob("drain_undecodable", 5.0, _drain_undecodable),
    TAKE_PARKED,
    PeriodicJob("apply_retention", 60.0, _apply_retention),
    HEARTBEAT,
    RESTORE_SUBSCRIPTIONS,
    CHECK_STALL,
    SERVE_METRICS,
)


class WorkerJobs(PeriodicJobs):
    """The periodic jobs of a worker."""

    jobs = JOBS
