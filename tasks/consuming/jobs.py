"""Jobs: run several deliveries as one job of a prefork process, and acknowledge each as soon as it ends.

A process takes a job of as many deliveries as lately ended in 5 ms, one where that is unknown. It writes to a page that
it shares with the worker's main process which delivery of the job it has begun and how many have ended:

    the job runs      the main process acknowledges what has ended, every 5 ms
    a handler lasts   deliveries behind it that were not begun go to another process that is free
    the process dies  what it had begun has crashed it; the deliveries behind it return to their queues
"""

from __future__ import annotations

import itertools
import mmap
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from billiard.einfo import ExceptionInfo
from billiard.process import current_process
from celery import current_app, signals

from petiole.tasks.consuming.direct import DirectRequest, run_entry
from petiole.tasks.settlement.settlement import EntryParts

if TYPE_CHECKING:
    from petiole.tasks.delivery import DeliveryTask

# Celery's and billiard's objects, of which the stubs describe too little to be checked against.
CeleryConsumer: TypeAlias = Any
Pool: TypeAlias = Any

JOB_TIME_S = 0.005
"""How long the deliveries of a job take together, and how late they are acknowledged."""

MAX_JOB_SIZE = 200

MAX_STANDSTILL_S = 0.1
"""After this time without an end, deliveries that wait beyond the prefetch limit return to their queue."""

_MAX_PROCESSES = 1_024
_PROGRESS = struct.Struct("<QHH")  # job, begun, ended
_LIMIT = struct.Struct("<QH")  # job, deliveries that may begin
_ROW = 32
# Created before the pool forks its processes. The system gives it memory when it is written to.
_page = mmap.mmap(-1, _ROW * _MAX_PROCESSES)


class JobProgress(NamedTuple):
    """How far a job has come; `ended` counts the leading deliveries that can be acknowledged."""

    begun: int
    ended: int


class JobResult(NamedTuple):
    """What a process returns for one delivery of a job: whether it must return to its queue, and its time in s."""

    is_requeued: bool
    duration_s: float


def run_job(job_id: int, deliveries: Sequence[tuple[str, EntryParts]]) -> list[JobResult]:
    """Run deliveries one after another, in a process of the pool. Returns the results of those that were begun."""
    process: Any = current_process()  # the stubs leave its index out
    row = process.index * _ROW
    results: list[JobResult] = []
    ended = 0
    for begun, (subscription, parts) in enumerate(deliveries, start=1):
        _PROGRESS.pack_into(_page, row, job_id, begun, ended)
        limited_job, limit = _LIMIT.unpack_from(_page, row + 16)
        if limited_job == job_id and begun > limit:
            break
        started = time.perf_counter()
        is_requeued = run_entry(cast("DeliveryTask", current_app.tasks[subscription]), parts)
        results.append(JobResult(is_requeued, time.perf_counter() - started))
        if ended == begun - 1 and not is_requeued:
            ended = begun
        _PROGRESS.pack_into(_page, row, job_id, begun, ended)
    return results


class JobQueue:
    """The deliveries that wait for a process of the pool, and the jobs that run."""

    def __init__(self, consumer: CeleryConsumer) -> None:
        self._consumer = consumer
        self._waiting: deque[DirectRequest] = deque()
        self._jobs: dict[int, Job] = {}
        self._durations: dict[str, float] = {}
        self._requested = 0
        self._is_scheduled = False
        self._timer: Any = None
        self._ended = self._ended_before = 0
        self._advanced_at = 0.0

    def add(self, request: DirectRequest) -> None:
        """Add a delivery; the jobs are made at the end of the event loop's iteration."""
        self._waiting.append(request)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._consumer.call_soon(self._request_slots)

    def execute_using_pool(self, pool: Pool, **_: object) -> None:
        """Run a job in a free process; Celery calls this as for a request."""
        self._requested -= 1
        job = Job(self, self._take())
        if not job.requests:
            self._consumer.controller._quick_release()  # noqa: SLF001 - as Celery does for a revoked task
            return
        self._jobs[job.id] = job
        job.start(pool)
        if self._timer is None:
            self._timer = self._consumer.timer.call_repeatedly(JOB_TIME_S, self._watch)

    def _request_slots(self) -> None:
        self._is_scheduled = False
        missing = min(len(self._waiting), self._consumer.pool.num_processes) - self._requested
        for _ in range(missing):
            self._requested += 1
            self._consumer.on_task_request(self)

    def _take(self) -> list[DirectRequest]:
        """Take the deliveries of a job: a fair share of what waits, which takes JOB_TIME_S together."""
        share = -(-len(self._waiting) // max(1, self._consumer.pool.num_processes))
        taken: list[DirectRequest] = []
        left_s = JOB_TIME_S
        while self._waiting and len(taken) < min(max(share, 1), MAX_JOB_SIZE):
            duration_s = self._durations.get(self._waiting[0].name, JOB_TIME_S)
            if taken and duration_s > left_s:
                break
            left_s -= duration_s
            request = self._waiting.popleft()
            if request.revoked():
                request.finish()
            else:
                taken.append(request)
        return taken

    def record(self, name: str, duration_s: float) -> None:
        """Record how long a delivery of a subscription took."""
        self._ended += 1
        earlier = self._durations.get(name, duration_s)
        self._durations[name] = earlier + (duration_s - earlier) / 8

    def end(self, job: Job) -> None:
        """Forget a job that has ended."""
        self._jobs.pop(job.id, None)
        if not self._jobs and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._is_scheduled:
            self._request_slots()

    def _watch(self) -> None:
        progress = _read_progress(self._consumer.pool.num_processes) if self._jobs else {}
        # Other deliveries wait for a process only if all are busy.
        has_free = len(self._jobs) < self._consumer.pool.num_processes
        is_still = self._stands_still(has_free=has_free)
        for job in list(self._jobs.values()):
            if job.id in progress:
                job.advance(*progress[job.id])
                if has_free or is_still:
                    self._waiting.extendleft(reversed(job.take_back()))
        if is_still:
            self._give_back_excess()
        if self._waiting and not self._is_scheduled:
            self._request_slots()

    def _stands_still(self, *, has_free: bool) -> bool:
        """Return whether no delivery has ended for a while though all processes are busy: the handlers are long."""
        now = time.monotonic()
        if has_free or self._ended != self._ended_before:
            self._ended_before, self._advanced_at = self._ended, now
        return now - self._advanced_at > MAX_STANDSTILL_S

    def _give_back_excess(self) -> None:
        """Return what waits beyond the prefetch limit."""
        excess = self._consumer.task_consumer.channel.qos.excess()
        for _ in range(min(excess, len(self._waiting))):
            self._waiting.pop().give_back()


class Job:
    """Deliveries that one process runs."""

    _ids = itertools.count(1)

    def __init__(self, queue: JobQueue, requests: list[DirectRequest]) -> None:
        self.id = next(self._ids)
        self.requests = requests
        self._queue = queue
        self._row = -1
        self._pid: int | None = None
        self._progress = JobProgress(0, 0)
        self._unchanged = 0
        self._limit: int | None = None
        self._acked = 0

    def start(self, pool: Pool) -> None:
        """Send the job to the pool."""
        calls = [(request.name, request.parts) for request in self.requests]
        pool.apply_async(
            run_job,
            args=(self.id, calls),
            accept_callback=self._on_accepted,
            callback=self._on_results,
            error_callback=self._on_lost,
        )

    def advance(self, row: int, progress: JobProgress) -> None:
        """Acknowledge what has ended since the last look."""
        self._row = row
        self._unchanged = self._unchanged + 1 if progress == self._progress else 0
        self._progress = progress
        self._show(progress.begun)
        self._acknowledge(progress.ended)

    def take_back(self) -> list[DirectRequest]:
        """Return the deliveries behind a handler that lasts.

        This takes two looks: the process reads the limit between them.
        """
        begun = self._progress.begun
        if self._limit is not None and begun > self._limit:
            self._limit = None  # the process began another one before it read the limit
        if self._limit is not None and self._unchanged > 0:
            taken, self.requests = self.requests[self._limit :], self.requests[: self._limit]
            return taken
        if self._limit is None and self._unchanged > 1 and 0 < begun < len(self.requests):
            self._limit = begun
            _LIMIT.pack_into(_page, self._row + 16, self.id, begun)
        return []

    def _show(self, begun: int) -> None:
        for request in self.requests[:begun]:
            if request.time_start is None:
                request.begin(self._pid or 0)

    def _acknowledge(self, ended: int) -> None:
        for request in self.requests[self._acked : ended]:
            request.finish()
        self._acked = max(self._acked, ended)

    def _on_accepted(self, pid: int, _time_accepted: float) -> None:
        self._pid = pid
        self._show(1)

    def _on_results(self, results: list[JobResult] | ExceptionInfo) -> None:
        if isinstance(results, ExceptionInfo):
            self._on_lost(results)
            return
        self._show(len(results))
        for place, (request, result) in enumerate(zip(self.requests, results, strict=False)):
            self._queue.record(request.name, result.duration_s)
            if place >= self._acked:
                request.finish(is_requeued=result.is_requeued)
        self._give_back(self.requests[len(results) :])
        self._queue.end(self)

    def _on_lost(self, _: ExceptionInfo) -> None:
        """Settle the deliveries of a process that has died."""
        row, progress = _read_progress(_MAX_PROCESSES).get(self.id, (self._row, self._progress))
        self.advance(row, progress)
        begun = self.requests[self._acked : progress.begun]
        self._give_back(begun[:-1])
        for request in begun[-1:]:
            if request.is_terminated:
                signals.task_revoked.send(
                    sender=request.task, request=request, terminated=True, signum=None, expired=False
                )
                request.finish()
            else:
                request.crash()
        self._give_back(self.requests[max(self._acked, progress.begun) :])
        self._queue.end(self)

    def _give_back(self, requests: Sequence[DirectRequest]) -> None:
        for request in requests:
            request.give_back()


def _read_progress(rows: int) -> dict[int, tuple[int, JobProgress]]:
    """Read the page: the row and the progress of each job."""
    progress = {}
    for row in range(0, rows * _ROW, _ROW):
        job_id, begun, ended = _PROGRESS.unpack_from(_page, row)
        progress[job_id] = (row, JobProgress(begun, ended))
    return progress
