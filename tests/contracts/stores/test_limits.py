"""Circuits and budgets, however many ask at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from petiole.tasks.stores.circuits import CircuitOutcome, CircuitThresholds
from petiole.tasks.stores.rate_limits import Quota, RateLimitUsage

A_MINUTE = timedelta(minutes=1)


def test_of_many_that_fail_at_once_one_opens_the_circuit_and_of_many_that_ask_one_probes(stores):
    limits = CircuitThresholds(failures=5, reset_timeout=A_MINUTE, lease=A_MINUTE)

    def fail_together(_: int) -> str:
        admission = stores.circuits.request_permit("shop.stock", limits)
        are_in.wait(10)
        return str(stores.circuits.record_outcome("shop.stock", limits, admission.epoch or 0, "failed").transition)

    are_in = threading.Barrier(12)
    with ThreadPoolExecutor(12) as pool:
        changes = list(pool.map(fail_together, range(12)))
        assert sorted(changes) == [""] * 11 + ["opened"]
        stores.circuits._clock.skip(60)
        asked = list(pool.map(lambda _: stores.circuits.request_permit("shop.stock", limits), range(12)))

    assert [each.transition for each in asked if each.epoch is not None] == ["half_opened"]


@pytest.mark.parametrize(
    ("endings", "state"), [(["succeeded", "failed"] * 3, "open"), (["succeeded", "succeeded", "failed"] * 3, "closed")]
)
def test_a_circuit_opens_at_a_rate_of_failures(stores, endings: list[CircuitOutcome], state):
    limits = CircuitThresholds(
        failures=9, reset_timeout=A_MINUTE, lease=A_MINUTE, rate=0.5, window=A_MINUTE, min_calls=6
    )

    for ending in endings:
        epoch = stores.circuits.request_permit("shop.stock", limits).epoch or 0
        stores.circuits.record_outcome("shop.stock", limits, epoch, ending)

    (circuit,) = stores.circuits.all()
    assert circuit.state == state


def test_a_budget_is_never_overdrawn_however_many_reserve_at_once(stores):
    quota = Quota(requests=None, tokens=1_000, window=A_MINUTE, lease=A_MINUTE)

    with ThreadPoolExecutor(12) as pool:
        refusals = list(pool.map(lambda n: stores.rate_limits.reserve("main", f"call {n}", 90, quota), range(30)))

    assert refusals.count(None) == 11
    assert stores.rate_limits.usage("main") == RateLimitUsage(11, 990)


def test_what_was_reserved_is_settled_once_and_released_as_if_it_had_never_been(stores):
    quota = Quota(requests=5, tokens=1_000, window=A_MINUTE, lease=A_MINUTE)
    for call in ("one", "two"):
        assert stores.rate_limits.reserve("main", call, 400, quota) is None

    stores.rate_limits.release("main", "one")
    stores.rate_limits.release("main", "one")
    for _ in range(2):
        stores.rate_limits.settle("main", "two", 123, quota.window)

    assert stores.rate_limits.usage("main") == RateLimitUsage(1, 123)
    stores.rate_limits._clock.skip(61)
    assert stores.rate_limits.reserve("main", "three", 1_000, quota) is None
    assert stores.rate_limits.usage("main") == RateLimitUsage(1, 1_000)


@pytest.mark.parametrize("tokens", [0, 1])
def test_calls_without_tokens_are_released_and_expire_as_others_do(stores, tokens):
    quota = Quota(requests=2, tokens=None, window=A_MINUTE, lease=A_MINUTE)
    for call in ("one", "two"):
        assert stores.rate_limits.reserve("main", call, tokens, quota) is None
    assert stores.rate_limits.reserve("main", "three", tokens, quota) is not None

    stores.rate_limits.release("main", "one")
    stores.rate_limits.settle("main", "two", 0, quota.window)

    assert stores.rate_limits.usage("main") == RateLimitUsage(1, 0)
    stores.rate_limits._clock.skip(200)
    assert stores.rate_limits.reserve("main", "four", tokens, quota) is None
    assert stores.rate_limits.usage("main") == RateLimitUsage(1, tokens)
