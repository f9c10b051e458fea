from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool

from petiole.events.errors import UsageError
from petiole.tasks.consuming.jobs import Job, JobProgress
from petiole.tasks.consuming.process_pool import check_pool
from tests.support.errors import has_code


class ARequest:
    """A stand-in for a delivery that records how it ended."""

    is_terminated = False
    time_start: float | None = None

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def begin(self, pid: int) -> None:
        self.time_start = 0.0

    def finish(self) -> None:
        self.outcomes.append("acknowledged")

    def crash(self) -> None:
        self.outcomes.append("crashed")

    def give_back(self) -> None:
        self.outcomes.append("returned")


class AQueue:
    """A stand-in for the queue of jobs."""

    def end(self, job: Job) -> None:
        """Forget the job."""


def a_job(requests: list[Any]) -> Job:
    queue: Any = AQueue()
    return Job(queue, requests)


def look(job: Job, progress: JobProgress, times: int) -> list[Any]:
    """Look at a job several times; return what is taken back."""
    taken: list[Any] = []
    for _ in range(times):
        job.advance(0, progress)
        taken += job.take_back()
    return taken


def test_deliveries_are_taken_back_if_an_earlier_limit_came_too_late():
    requests = [ARequest() for _ in range(4)]
    job = a_job(requests)
    assert look(job, JobProgress(1, 0), 3) == [], "the limit is set, and the process may not have read it"

    taken = look(job, JobProgress(2, 1), 4)

    assert taken == requests[2:]


def test_a_lost_process_has_crashed_only_at_the_delivery_that_it_began_last():
    """The first one ended and must return to its queue, so the end of the second was not noted."""
    requests = [ARequest() for _ in range(4)]
    job = a_job(requests)
    job.advance(0, JobProgress(3, 0))

    lost: Any = None
    job._on_lost(lost)

    assert [request.outcomes for request in requests] == [["returned"], ["returned"], ["crashed"], ["returned"]]


@pytest.mark.parametrize(
    ("replaced", "difference"),
    [
        ({"_cache": None}, r"_flush_writer: it takes \(process\)"),
        ({}, "_cache: it is missing"),
    ],
)
def test_a_pool_without_the_private_names_that_are_used_is_refused_at_start(replaced, difference):
    class OtherPool(AsynPool):
        def __init__(self) -> None:
            self._active_writers: set[object] = set()
            self.__dict__.update(replaced)

        def _flush_writer(self, process): ...

        def __del__(self): ...

    with pytest.raises(UsageError, match=difference, check=has_code("unsupported_pool")):
        check_pool(SimpleNamespace(_pool=OtherPool()))
