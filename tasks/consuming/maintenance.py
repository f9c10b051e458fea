"""Recovery: what a worker does regularly beside consuming, so that nothing stays where nobody looks.

    add_rounds(bus, [PeriodicJob("dead_letter_retention", 60, keep_within_limits)])

A round is a function of the app and the worker's consumer, called again and again while the worker consumes. One that
fails is logged as `round.failed`, once until it succeeds again (`round.recovered`), and neither stops the others nor
the worker. One that `outlasts_consuming` goes on while a worker that was told to end waits for its handlers.

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
from petiole.tasks.dead_letters import retain
from petiole.tasks.instrumentation import JobFailed, JobRecovered
from petiole.tasks.publishing.delayed import move_due
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.settlement.undecodable import drain_undecodable
from petiole.tasks.transport import leases

_JOIN_S = 1.0


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
        for each in self._outlasting:
            self._make(each, consumer)
        if isinstance(consumer.pool, ProcessPool):
            self._timers = [
                consumer.timer.call_repeatedly(each.interval_s, self._make, (each, consumer)) for each in self.jobs
            ]
            self._outlast_soft_shutdown(consumer)
        else:
            self._start_threads(self.jobs, consumer)

    def stop(self, consumer: Any) -> None:
        """End; where the worker does, too, but for the rounds that outlast consuming."""
        self._end()
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._start_threads(self._outlasting, consumer)

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's
        """End all, once no handler runs any more."""
        self._end()

    @property
    def _outlasting(self) -> list[PeriodicJob]:
        return [each for each in self.jobs if each.outlasts_consuming]

    def _make(self, which: PeriodicJob, consumer: Any) -> None:
        bus = bus_of(consumer.app)
        try:
            which.act(bus, consumer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on, and the job comes again
            if which.name not in self._failing:
                self._failing.add(which.name)
                bus.instrumentation.emit(JobFailed(job=which.name, exception=error))
        else:
            if which.name in self._failing:
                self._failing.discard(which.name)
                bus.instrumentation.emit(JobRecovered(job=which.name))

    def _start_threads(self, rounds: Sequence[PeriodicJob], consumer: Any) -> None:
        ended = self._ended = Event()
        self._threads = [
            Thread(target=self._repeat, args=(each, consumer, ended), name=f"round {each.name}", daemon=True)
            for each in rounds
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, which: PeriodicJob, consumer: Any, ended: Event) -> None:
        while not ended.wait(which.interval_s):
            self._make(which, consumer)

    def _end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._ended.set()
        for thread in self._threads:
            # One that waits for the broker ends by itself once it was answered.
            thread.join(_JOIN_S)
        self._timers, self._threads = [], []

    def _outlast_soft_shutdown(self, consumer: Any) -> None:
        """Have the rounds go on while Celery sleeps in a signal handler, as its soft shutdown does: the loop stands."""
        worker = consumer.controller
        wait = type(worker).wait_for_soft_shutdown
        worker.wait_for_soft_shutdown = partial(self._soft_shutdown, consumer, partial(wait, worker))

    def _soft_shutdown(self, consumer: Any, wait: Callable[[], object]) -> None:
        if not self._threads:
            self._start_threads(self._outlasting, consumer)
        wait()


def _renew_leases(_: BusRuntime, consumer: Any) -> None:
    if consumer.task_consumer:
        leases.renew(consumer.task_consumer.channel)


def _sweep_leases(_: BusRuntime, consumer: Any) -> None:
    if consumer.task_consumer:
        leases.sweep(consumer.task_consumer.channel)


def _move_due(bus: BusRuntime, _: Any) -> None:
    move_due(bus)


def _retain(bus: BusRuntime, _: Any) -> None:
    retain(bus)


MOVE_DUE = PeriodicJob("move_due", 0.1, _move_due)

JOBS = (
    PeriodicJob("renew_leases", 0.5, _renew_leases, outlasts_consuming=True),
    PeriodicJob("sweep_leases", 1.0, _sweep_leases),
    MOVE_DUE,
    PeriodicJob("undecodable", 1.0, drain_undecodable),
    PeriodicJob("dead_letters", 60.0, _retain),
    HEARTBEAT,
)


class WorkerJobs(PeriodicJobs):
    """The periodic jobs of a worker."""

    jobs = JOBS
