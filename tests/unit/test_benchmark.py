"""The benchmark's own tools: counts that must be exact, rates, and the tables."""

from __future__ import annotations

import json
from io import StringIO

import fakeredis
import pytest
from rich.console import Console

from tests.benchmarks.contestants.petiole_event import build_event
from tests.benchmarks.counters import BUCKETS_PER_S, Counts, CountsDifferError
from tests.benchmarks.document import Measured, build_document
from tests.benchmarks.report import print_report


@pytest.fixture
def counts():
    return Counts(fakeredis.FakeRedis())


def record(counts: Counts, subscriber: int, *numbers: int) -> None:
    counts.client.hincrby("counts", str(subscriber), len(numbers))
    counts.client.hincrby("sums", str(subscriber), sum(numbers))


def test_each_event_handled_once_by_each_subscriber_is_accepted(counts):
    record(counts, 0, 1, 2, 3)
    record(counts, 1, 3, 2, 1)

    counts.wait_for(events=3, subscribers=2, stall_s=1)


@pytest.mark.parametrize("numbers", [(1, 2, 3, 3), (1, 1, 2), (1, 2, 4)])
def test_an_event_handled_twice_or_in_place_of_another_is_refused(counts, numbers):
    record(counts, 0, *numbers)

    with pytest.raises(CountsDifferError):
        counts.wait_for(events=3, subscribers=1, stall_s=1)


def test_events_that_are_never_handled_end_the_wait(counts):
    record(counts, 0, 1, 2)

    with pytest.raises(TimeoutError, match="2 executions"):
        counts.wait_for(events=3, subscribers=1, stall_s=0.1)


def test_the_rate_leaves_out_start_and_end(counts):
    steady = {second * BUCKETS_PER_S: 100 for second in range(10, 20)}
    for bucket, count in {0: 1, **steady, 90 * BUCKETS_PER_S: 1}.items():
        counts.client.hset("buckets", str(bucket), count)

    assert counts.rate() == pytest.approx(100)


def test_petiole_and_its_peers_publish_events_of_the_same_fields_and_size():
    theirs = json.dumps(build_document(1_000), separators=(",", ":"))
    ours = build_event(1_000).model_dump_json()

    assert json.loads(ours).keys() == Measured.model_validate_json(theirs).model_dump().keys()
    assert len(ours) == pytest.approx(561, abs=3)
    assert len(theirs) == pytest.approx(561, abs=3)


def test_ratios_are_computed_within_each_round():
    turns = [
        {"round": number, "contestant": name, "measure": "drain", "figures": {"drain_per_s": rate}, "error": ""}
        for number, rates in ((1, {"huey": 100, "petiole": 200}), (2, {"huey": 10, "petiole": 30}))
        for name, rate in rates.items()
    ]
    console = Console(width=120, record=True, file=StringIO())

    print_report(turns, console)

    assert "2.50 (2-3)" in console.export_text()


def test_a_failed_turn_is_told_and_gives_no_figure():
    turns = [{"round": 1, "contestant": "huey", "measure": "drain", "figures": {}, "error": "TimeoutError: …"}]
    console = Console(width=120, record=True, file=StringIO())

    print_report(turns, console)

    assert "drain: rounds that failed  1 of 1" in console.export_text()
