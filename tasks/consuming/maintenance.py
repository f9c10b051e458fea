"""Maintenance: the periodic jobs that a worker runs while it consumes.

    renew_leases       0.5 s   renew the leases of this worker's messages: tasks/transport/leases.py
    requeue_expired    1 s     return the messages of crashed workers to their queues: tasks/transport/leases.py
    send_due           0.1 s   send delayed messages that are due: tasks/publishing/delayed.py
    drain_undecodable  1 s     dead-letter undecodable bytes: tasks/settlement/undecodable.py
    apply_retention    60 s    delete dead letters beyond their limits: tasks/dead_letters/retention.py
    heartbeat          0.5 s   report this worker and its agents: tasks/consuming/heartbeat.py

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
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as ProcessPool

from petiole.tasks.consuming.heartbeat import HEARTBEAT
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.dead_letters import apply_retention
from petiole.tasks.instrumentation import JobFailed, JobRecovered
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.settlement.undecodable import drain_undecodable
from petiole.tasks.transport import leases

_JOIN_TIMEOUT_S = 1.0


class PeriodicJobs(bootsteps.StartStopStep):
    """A step of the consumer that runs periodic jobs. Celery stops and starts it at every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    jobs: tuple[PeriodicJob, ...] = ()

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._failing: set[str] = set()
        self._timers: list[Any] = []
        self._ended = Event()
        self._threads: list[Thread] = []

    def start(self, consumer: Any) -> None:
        """Start the jobs before the first message is fetched."""
        for job in self._shutdown_jobs:
            self._run_job(job, consumer)
        if isinstance(consumer.pool, ProcessPool):
            self._timers = [
                consumer.timer.call_repeatedly(job.interval_s, self._run_job, (job, consumer)) for job in self.jobs
            ]
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

    def _run_job(self, job: PeriodicJob, consumer: Any) -> None:
        bus = bus_of(consumer.app)
        try:
            job.function(bus, consumer)
        except Exception as error:  # noqa: BLE001 - reported; the worker continues and the job runs again
            if job.name not in self._failing:
                self._failing.add(job.name)
                bus.instrumentation.emit(JobFailed(job=job.name, exception=error))
        else:
            if job.name in self._failing:
                self._failing.discard(job.name)
                bus.instrumentation.emit(JobRecovered(job=job.name))

    def _start_threads(self, jobs: Sequence[PeriodicJob], consumer: Any) -> None:
        ended = self._ended = Event()
        self._threads = [
            Thread(target=self._repeat, args=(job, consumer, ended), name=f"petiole-job {job.name}", daemon=True)
            for job in jobs
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, job: PeriodicJob, consumer: Any, stopping: Event) -> None:
        while not stopping.wait(job.interval_s):
            self._run_job(job, consumer)

    def _stop_threads(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._ended.set()
        for thread in self._threads:
            # A job that waits for the broker ends after the broker's response.
            thread.join(_JOIN_TIMEOUT_S)
        self._timers, self._threads = [], []

    def _keep_running_in_soft_shutdown(self, consumer: Any) -> None:
        """Run the jobs in threads during Celery's soft shutdown, which blocks the loop in a signal handler."""
        worker = consumer.controller
        wait = type(worker).wait_for_soft_shutdown
        worker.wait_for_soft_shutdown = partial(self._soft_shutdown, consumer, partial(wait, worker))

    def _soft_shutdown(self, consumer: Any, wait: Callable[[], object]) -> None:
        if not self._threads:
            self._start_threads(self._shutdown_jobs, consumer)
        wait()


def _renew_leases(_: BusRuntime, consumer: Any) -> None:
    if consumer.task_consumer:
        leases.renew_leases(consumer.task_consumer.channel)


def _requeue_expired(_: BusRuntime, consumer: Any) -> None:
    if consumer.task_consumer:
        leases.expire_lost(consumer.task_consumer.channel)


def _send_due(bus: BusRuntime, _: Any) -> None:
    send_due(bus)


def _apply_retention(bus: BusRuntime, _: Any) -> None:
    apply_retention(bus)


SEND_DUE = PeriodicJob("send_due", 0.1, _send_due)

JOBS = (
    PeriodicJob("renew_leases", 0.5, _renew_leases, runs_during_shutdown=True),
    PeriodicJob("requeue_expired", 1.0, _requeue_expired),
    SEND_DUE,
    PeriodicJob("drain_undecodable", 1.0, drain_undecodable),
    PeriodicJob("apply_retention", 60.0, _apply_retention),
    HEARTBEAT,
)


class WorkerJobs(PeriodicJobs):
    """The periodic jobs of a worker."""

    jobs = JOBS
