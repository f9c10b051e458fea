"""The tally of an experiment on the page Break it: what is lost or repeated is told."""

from __future__ import annotations

import pytest

from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.console.experiments import Experiment, Tally, count_outcomes


def recorded(topic: str, flow: str, **content: str) -> RecordedEvent:
    attributes = {"event_type": topic, "correlation_id": flow, "event_id": f"{topic} {flow}", "content": content}
    return RecordedEvent("1-1", attributes)


SERVED = "demo.order.served"


@pytest.mark.parametrize(
    ("events", "tally"),
    [
        ([], Tally(2, 0, 0, 0)),
        ([recorded(SERVED, "a"), recorded(SERVED, "b")], Tally(2, 2, 0, 0)),
        ([recorded(SERVED, "a"), recorded(SERVED, "a")], Tally(2, 1, 0, 1)),
        ([recorded(SERVED, "a"), recorded("error.dead_lettered", "b")], Tally(2, 1, 1, 0)),
        ([recorded("output.message.sent", "a", kind="answer"), recorded("output.message.sent", "a", kind="suggestion")],
         Tally(2, 1, 0, 0)),
    ],
)  # fmt: skip
def test_every_flow_counts_once_and_a_second_result_is_a_repetition(events, tally):
    assert count_outcomes(events, 2) == tally


def test_what_has_no_outcome_in_time_is_lost(monkeypatch):
    experiment = Experiment("Kill a worker", published=2)
    experiment.expect_outcomes()
    experiment.update([recorded(SERVED, "a")])
    before = (experiment.tally, experiment.is_done)
    monkeypatch.setattr("petiole.workers.console.experiments.time.monotonic", lambda: float("inf"))

    experiment.update([recorded(SERVED, "a")])

    assert before == (Tally(2, 1, 0, 0), False)
    assert experiment.tally.lost == 1
    assert not experiment.recovered
