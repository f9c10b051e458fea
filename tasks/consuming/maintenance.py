"""Recovery: what a worker does regularly beside consuming, so that nothing stays where nobody looks.

    add_rounds(bus, [PeriodicJob("dead_letter_retention", 60, keep_within_limits)])

A round is a function of the app and the worker's consumer, called again and again while the worker consumes. One that
fails is logged as `job.failed`, once until it succeeds again (`job.recovered`), and neither stops the others nor
the worker. One that `runs_during_shutdown` goes on while a worker that was told to end waits for its handlers.

    renew_leases    0.5 s   what this worker holds is known to be held: tasks/transport/leases.py
    sweep_leases    1 s     what a dead worker held goes back to its queues
    move_due        0.1 s   what waits for its time leaves the waiting room: waiting.py
    undecodable     1 s     bytes that are no message become dead letters: undecodable.py
    dead_letters    60 s    dead letters are kept within their limits: dead_letters/retention.py

In a worker of processes (prefork) rounds take turns on the event loop's timer: a thread in the process that forks could
be in the middle of anything when it does. There a round must be quick. In other workers each has a thread of its own,
which goes on while a handler keeps the loop busy. Only once no process is forked any more, when a worker ends and its
loop stands still, do the outlasting rounds get threads there, too.
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
    """A step of the consumer. Celery stops and starts it at every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    jobs: tuple[PeriodicJob, ...] = ()

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._failing: set[str] = set()
        self._timers: list[Any] = []
        self._ended = Event()
        self._threads: list[Thread] = []

    def start(self, consumer: Any) -> None:
        """Begin, before the first message is taken."""
        for each in self._shutdown_jobs:
            self._run_job(each, consumer)
        if isinstance(consumer.pool, ProcessPool):
            self._timers = [
                consumer.timer.call_repeatedly(each.interval_s, self._run_job, (each, consumer)) for each in self.jobs
            ]
            self._keep_running_in_soft_shutdown(consumer)
        else:
            self._start_threads(self.jobs, consumer)

    def stop(self, consumer: Any) -> None:
        """End; where the worker does, too, but for the rounds that outlast consuming."""
        self._stop_threads()
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._start_threads(self._shutdown_jobs, consumer)

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's
        """End all, once no handler runs any more."""
        self._stop_threads()

    @property
    def _shutdown_jobs(self) -> list[PeriodicJob]:
        return [each for each in self.jobs if each.runs_during_shutdown]

    def _run_job(self, job: PeriodicJob, consumer: Any) -> None:
        bus = bus_of(consumer.app)
        try:
            job.function(bus, consumer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on, and the job comes again
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
            Thread(target=self._repeat, args=(each, consumer, ended), name=f"round {each.name}", daemon=True)
            for each in jobs
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
            # One that waits for the broker ends by itself once it was answered.
            thread.join(_JOIN_TIMEOUT_S)
        self._timers, self._threads = [], []

    def _keep_running_in_soft_shutdown(self, consumer: Any) -> None:
        """Have the rounds go on while Celery sleeps in a signal handler, as its soft shutdown does: the loop stands."""
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
        leases.requeue_expired(consumer.task_consumer.channel)


def _send_due(bus: BusRuntime, _: Any) -> None:
    send_due(bus)


def _apply_retention(bus: BusRuntime, _: Any) -> None:
    apply_retention(bus)


MOVE_DUE = PeriodicJob("move_due", 0.1, _send_due)

JOBS = (
    PeriodicJob("renew_leases", 0.5, _renew_leases, runs_during_shutdown=True),
    PeriodicJob("sweep_leases", 1.0, _requeue_expired),
    MOVE_DUE,
    PeriodicJob("undecodable", 1.0, drain_undecodable),
    PeriodicJob("dead_letters", 60.0, _apply_retention),
    HEARTBEAT,
)


class WorkerJobs(PeriodicJobs):
    """The periodic jobs of a worker."""

    jobs = JOBS
