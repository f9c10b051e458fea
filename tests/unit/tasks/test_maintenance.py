from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.tasks.consuming.maintenance import PeriodicJobs
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.runtime import BusRuntime
from tests.support.apps import a_bus

RUNNING, CLOSING = 1, 2


@pytest.fixture
def bus():
    return a_bus()


@pytest.fixture
def consumer(bus):
    """Provide the attributes of a consumer that a step uses, with a threads pool."""
    return SimpleNamespace(app=bus.app, pool=object(), blueprint=SimpleNamespace(state=RUNNING))


class Calls:
    """A job that counts its calls, and fails while `fails` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.called = threading.Event()

    def __call__(self, bus: BusRuntime, consumer: Any) -> None:
        self.count += 1
        self.called.set()
        if self.fails:
            raise OSError("no broker")

    def is_called_again(self) -> bool:
        self.called.clear()
        return self.called.wait(5)


def is_running(job: str) -> bool:
    """Tell whether a thread runs a job; buses of other tests in this process have jobs too."""
    return f"petiole-job {job}" in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def start_jobs(bus, consumer):
    steps = []

    def start(*jobs: PeriodicJob) -> PeriodicJobs:
        step_class = type("Jobs", (PeriodicJobs,), {"jobs": jobs})
        step: PeriodicJobs = step_class(consumer)
        steps.append(step)
        step.start(consumer)
        return step

    yield start
    for step in steps:
        step.shutdown(consumer)


def test_a_failing_job_is_logged_once_and_stops_no_other_job(start_jobs, caplog):
    failing, other = Calls(), Calls()
    failing.fails = True
    with caplog.at_level(logging.INFO, "petiole"):
        start_jobs(PeriodicJob("failing", 0.01, failing), PeriodicJob("other", 0.01, other))
        assert all(failing.is_called_again() for _ in range(5))
        assert other.is_called_again()
        assert [(record.message, record.__dict__["job"]) for record in caplog.records] == [("job.failed", "failing")]

        failing.fails = False
        assert all(failing.is_called_again() for _ in range(3))

    assert [record.message for record in caplog.records] == ["job.failed", "job.recovered"]


def test_jobs_for_shutdown_run_before_the_first_message_and_end_with_the_worker(start_jobs, consumer):
    lasting = Calls()
    step = start_jobs(
        PeriodicJob("lasting", 0.01, lasting, runs_during_shutdown=True), PeriodicJob("other", 60, Calls())
    )
    assert lasting.count >= 1

    consumer.blueprint.state = CLOSING
    step.stop(consumer)
    assert lasting.is_called_again()
    step.shutdown(consumer)

    assert not is_running("lasting")


def test_jobs_end_with_their_connection(start_jobs, consumer):
    step = start_jobs(PeriodicJob("lasting", 0.01, Calls(), runs_during_shutdown=True))

    step.stop(consumer)

    assert not is_running("lasting")
