from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.events.errors import (
    HandlerTimedOut,
    InvalidSchedule,
    RetryLater,
    UsageError,
    handler_returned_no_event,
    unknown_event_type,
)
from petiole.tasks import RetryPolicy, later
from petiole.tasks.settlement.retry_policy import Again, GiveUp, PutOff, verdict
from tests.support.errors import has_code

ODD = 0.5
"""In the middle of the jitter: it changes nothing."""


def waits(policy: RetryPolicy, count: int) -> list[float]:
    return [policy.wait_after(attempt, ODD).total_seconds() for attempt in range(1, count + 1)]


def test_by_default_a_handler_runs_at_0_1_and_3_seconds():
    assert waits(RetryPolicy(), 2) == [1, 2]
    assert verdict(RetryPolicy(), RuntimeError(), 1, ODD) == Again(timedelta(seconds=1))
    assert verdict(RetryPolicy(), RuntimeError(), 2, ODD) == Again(timedelta(seconds=2))
    assert verdict(RetryPolicy(), RuntimeError(), 3, ODD) == GiveUp("failed")


def test_waits_grow_by_the_factor_up_to_the_cap():
    policy = RetryPolicy(max_attempts=9, base=0.5, factor=3, cap=timedelta(seconds=10))

    assert waits(policy, 5) == [0.5, 1.5, 4.5, 10, 10]


@given(attempt=st.integers(1, 10**6), chance=st.floats(0, 1), jitter=st.floats(0, 1))
def test_a_wait_is_never_negative_and_never_beyond_twice_the_cap(attempt, chance, jitter):
    wait = RetryPolicy(jitter=jitter, factor=100).wait_after(attempt, chance)

    assert timedelta(0) <= wait <= timedelta(seconds=120)


def test_jitter_spreads_waits_by_its_share_in_both_directions():
    policy = RetryPolicy(jitter=0.2)

    assert [policy.wait_after(1, chance).total_seconds() for chance in (0, 0.5, 1)] == pytest.approx([0.8, 1.0, 1.2])


@pytest.mark.parametrize(
    "error",
    [handler_returned_no_event("memory.keep", "str"), unknown_event_type("no.such"), KeyError("mine")],
    ids=lambda error: type(error).__name__,
)
def test_what_no_repetition_mends_is_given_up_at_once(error):
    assert verdict(RetryPolicy(permanent=(KeyError,)), error, 1, ODD) == GiveUp("permanent")


def test_a_time_limit_is_worth_another_attempt():
    assert verdict(RetryPolicy(), HandlerTimedOut("memory.keep", 5), 1, ODD) == Again(timedelta(seconds=1))


def test_who_asks_for_later_spends_no_attempt_however_many_there_were():
    assert verdict(RetryPolicy(), RetryLater("the model is busy", 7), 99, ODD) == PutOff(timedelta(seconds=7))


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"base": -1},
        {"base": "soon"},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"cap": timedelta(days=400)},
        {"jitter": 2},
        {"permanent": ("ValueError",)},
        {"attempts": 3},
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_is_refused_by_name(options):
    with pytest.raises(UsageError, check=has_code("invalid_option")) as refused:
        RetryPolicy(**options)

    assert next(iter(options)) in str(refused.value)


@pytest.mark.parametrize("after", [-1, timedelta(days=400), float("nan")])
def test_later_refuses_what_is_no_wait(after):
    with pytest.raises(InvalidSchedule):
        later(after)
