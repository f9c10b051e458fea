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
    """Give what a step sees of a worker of threads."""
    return SimpleNamespace(app=bus.app, pool=object(), blueprint=SimpleNamespace(state=RUNNING))


class Calls:
    """A round that counts, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.called = threading.Event()

    def __call__(self, bus: BusRuntime, consumer: Any) -> None:
        self.count += 1
        self.called.set()
        if self.fails:
            raise OSError("no broker")

    def comes_again(self) -> bool:
        self.called.clear()
        return self.called.wait(5)


@pytest.fixture
def started(bus, consumer):
    steps = []

    def start(*jobs: PeriodicJob) -> PeriodicJobs:
        kind = type("Jobs", (PeriodicJobs,), {"jobs": jobs})
        step: PeriodicJobs = kind(consumer)
        steps.append(step)
        step.start(consumer)
        return step

    yield start
    for step in steps:
        step.shutdown(consumer)


def test_a_failing_job_is_logged_once_and_stops_no_other_job(started, caplog):
    failing, other = Calls(), Calls()
    failing.fails = True
    with caplog.at_level(logging.INFO, "petiole"):
        started(PeriodicJob("failing", 0.01, failing), PeriodicJob("other", 0.01, other))
        assert all(failing.comes_again() for _ in range(5))
        assert other.comes_again()
        assert [(each.message, each.__dict__["job"]) for each in caplog.records] == [("job.failed", "failing")]

        failing.fails = False
        assert all(failing.comes_again() for _ in range(3))

    assert [each.message for each in caplog.records] == ["job.failed", "job.recovered"]


def test_jobs_for_shutdown_run_before_the_first_message_and_end_with_the_worker(started, consumer):
    lasting, other = Calls(), Calls()
    step = started(PeriodicJob("lasting", 0.01, lasting, runs_during_shutdown=True), PeriodicJob("other", 60, other))
    assert (lasting.count >= 1, other.count) == (True, 0)

    consumer.blueprint.state = CLOSING
    step.stop(consumer)
    assert lasting.comes_again()
    step.shutdown(consumer)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("petiole-job ")]


def test_jobs_end_with_their_connection(started, consumer):
    step = started(PeriodicJob("lasting", 0.01, Calls(), runs_during_shutdown=True))

    step.stop(consumer)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("petiole-job ")]
