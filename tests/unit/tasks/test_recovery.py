from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.tasks.celery import EventApp
from petiole.tasks.consuming.maintenance import Round, Rounds, add_rounds

RUNNING, CLOSING = 1, 2


@pytest.fixture
def app():
    return EventApp("recovery", set_as_current=False)


@pytest.fixture
def consumer(app):
    """Give what a step sees of a worker of threads."""
    return SimpleNamespace(app=app, pool=object(), blueprint=SimpleNamespace(state=RUNNING))


class Calls:
    """A round that counts, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.called = threading.Event()

    def __call__(self, app: EventApp, consumer: Any) -> None:
        self.count += 1
        self.called.set()
        if self.fails:
            raise OSError("no broker")

    def comes_again(self) -> bool:
        self.called.clear()
        return self.called.wait(5)


@pytest.fixture
def started(app, consumer):
    steps = []

    def start(*rounds: Round) -> Rounds:
        add_rounds(app, rounds)
        (kind,) = app.steps["consumer"]
        step: Rounds = kind(consumer)
        steps.append(step)
        step.start(consumer)
        return step

    yield start
    for step in steps:
        step.shutdown(consumer)


def test_rounds_that_are_added_one_after_the_other_belong_to_one_step(app):
    other = EventApp("other", set_as_current=False)
    first, second = Round("first", 1, Calls()), Round("second", 1, Calls())

    add_rounds(app, [first])
    add_rounds(app, [second])

    (step,) = app.steps["consumer"]
    assert step.rounds == (first, second)
    assert not other.steps["consumer"]
    assert Rounds.rounds == ()


def test_a_failing_round_is_told_of_once_and_stops_nobody(started, caplog):
    failing, other = Calls(), Calls()
    failing.fails = True
    with caplog.at_level(logging.INFO, "petiole.tasks.consuming.maintenance"):
        started(Round("failing", 0.01, failing), Round("other", 0.01, other))
        assert all(failing.comes_again() for _ in range(5))
        assert other.comes_again()
        assert [(each.message, each.__dict__["round"]) for each in caplog.records] == [("round.failed", "failing")]

        failing.fails = False
        assert all(failing.comes_again() for _ in range(3))

    assert [each.message for each in caplog.records] == ["round.failed", "round.recovered"]


def test_what_outlasts_consuming_begins_before_the_first_message_and_ends_with_the_worker(started, consumer):
    lasting, other = Calls(), Calls()
    step = started(Round("lasting", 0.01, lasting, outlasts_consuming=True), Round("other", 60, other))
    assert (lasting.count >= 1, other.count) == (True, 0)

    consumer.blueprint.state = CLOSING
    step.stop(consumer)
    assert lasting.comes_again()
    step.shutdown(consumer)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("round ")]


def test_rounds_end_with_their_connection(started, consumer):
    step = started(Round("lasting", 0.01, Calls(), outlasts_consuming=True))

    step.stop(consumer)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("round ")]
