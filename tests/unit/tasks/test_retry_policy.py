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
from petiole.tasks.settlement.retry_policy import Defer, GiveUp, RetryAfter, decide
from tests.support.errors import has_code

NO_JITTER = 0.5
"""The chance at which jitter changes nothing."""


def delays(policy: RetryPolicy, count: int) -> list[float]:
    return [policy.wait_after(attempt, NO_JITTER).total_seconds() for attempt in range(1, count + 1)]


def test_by_default_a_handler_runs_at_0_1_and_3_seconds():
    assert delays(RetryPolicy(), 2) == [1, 2]
    assert decide(RetryPolicy(), RuntimeError(), 1, NO_JITTER) == RetryAfter(timedelta(seconds=1))
    assert decide(RetryPolicy(), RuntimeError(), 2, NO_JITTER) == RetryAfter(timedelta(seconds=2))
    assert decide(RetryPolicy(), RuntimeError(), 3, NO_JITTER) == GiveUp("failed")


def test_delays_grow_by_the_factor_up_to_the_cap():
    policy = RetryPolicy(max_attempts=9, base=0.5, factor=3, cap=timedelta(seconds=10))

    assert delays(policy, 5) == [0.5, 1.5, 4.5, 10, 10]


@given(attempt=st.integers(1, 10**6), chance=st.floats(0, 1), jitter=st.floats(0, 1))
def test_a_delay_is_never_negative_and_never_above_twice_the_cap(attempt, chance, jitter):
    delay = RetryPolicy(jitter=jitter, factor=100).wait_after(attempt, chance)

    assert timedelta(0) <= delay <= timedelta(seconds=120)


def test_jitter_lengthens_or_shortens_a_delay_by_up_to_its_share():
    policy = RetryPolicy(jitter=0.2)

    assert [policy.wait_after(1, chance).total_seconds() for chance in (0, 0.5, 1)] == pytest.approx([0.8, 1.0, 1.2])


@pytest.mark.parametrize(
    "error",
    [handler_returned_no_event("memory.keep", "str"), unknown_event_type("no.such"), KeyError("missing")],
    ids=lambda error: type(error).__name__,
)
def test_a_permanent_error_is_not_retried(error):
    assert decide(RetryPolicy(permanent=(KeyError,)), error, 1, NO_JITTER) == GiveUp("permanent")


def test_an_exceeded_time_limit_is_retried():
    assert decide(RetryPolicy(), HandlerTimedOut("memory.keep", 5), 1, NO_JITTER) == RetryAfter(timedelta(seconds=1))


def test_deferring_uses_no_attempt():
    assert decide(RetryPolicy(), RetryLater("the model is busy", 7), 99, NO_JITTER) == Defer(timedelta(seconds=7))


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
def test_an_invalid_policy_option_is_refused_by_name(options):
    with pytest.raises(UsageError, check=has_code("invalid_option")) as refusal:
        RetryPolicy(**options)

    assert next(iter(options)) in str(refusal.value)


@pytest.mark.parametrize("after", [-1, timedelta(days=400), float("nan")])
def test_later_refuses_an_invalid_delay(after):
    with pytest.raises(InvalidSchedule):
        later(after)
