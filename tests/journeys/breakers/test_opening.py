"""What opens a circuit breaker, and whose failure it is."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter

from petiole.events.errors import ProviderRefused, ProviderUnavailable, ServiceUnavailable, UsageError
from petiole.tasks import EventBus, guarded
from tests.journeys.breakers.dependency import ONCE, RESET_S, Dependency, attempt, circuit, http_error
from tests.support.inside import Inside


def test_five_failures_in_a_row_open_it_and_a_success_begins_the_count_anew(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)

    attempt(call, 4)
    dependency.error = None
    attempt(call)
    dependency.error = ConnectionError("it is down again")
    attempt(call, 4)

    assert circuit(bus).state == "closed"
    assert [type(each) for each in attempt(call, 3)] == [ConnectionError, ServiceUnavailable, ServiceUnavailable]
    assert circuit(bus).state == "open"
    assert dependency.calls == 10


def test_an_open_breaker_fails_at_once_says_until_when_and_calls_nothing(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    took_s: list[float] = []

    for _ in range(50):
        begun = time.perf_counter()
        attempt(call)
        took_s.append(time.perf_counter() - begun)

    (error,) = attempt(call)
    assert isinstance(error, ServiceUnavailable)
    assert "Circuit breaker open" in str(error)
    assert 0 < (error.retry_at - datetime.now(UTC)).total_seconds() <= RESET_S
    assert timedelta(0) < error.after <= timedelta(seconds=RESET_S * 1.1)
    assert dependency.calls == 5
    assert statistics.median(took_s) < 0.2


def test_a_rate_of_failures_opens_it_though_no_five_are_in_a_row(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, rate=0.5, min_calls=10, window=60)(dependency)

    for error in (None, ConnectionError("down")) * 5:
        assert circuit_state(bus) == "closed"
        dependency.error = error
        attempt(call)

    assert circuit_state(bus) == "open"


def test_failures_before_the_window_do_not_count_for_the_rate(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, rate=0.5, min_calls=4, window=60)(dependency)
    attempt(call, 3)
    dependency.error = None
    bus.store_clock.skip(70)

    attempt(call, 3)
    dependency.error = ConnectionError("down")
    attempt(call)

    assert circuit_state(bus) == "closed"


def circuit_state(bus: EventBus) -> str:
    return next((each.state for each in Inside(bus).circuits().values()), "closed")


class AValidationError:
    @staticmethod
    def make() -> Exception:
        try:
            TypeAdapter(int).validate_python("x")
        except ValueError as error:
            return error
        raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        http_error(404),
        http_error(429),
        UsageError("a bad call"),
        ProviderRefused("openai", "the key is wrong"),
        AValidationError.make(),
        TypeError("a bug"),
        KeyError("named by who guards"),
    ],
    ids=["404", "429", "UsageError", "ProviderRefused", "ValidationError", "TypeError", "named"],
)
def test_what_is_the_callers_mistake_does_not_open_it_and_comes_out_as_it_was_raised(bus, error):
    dependency = Dependency()
    dependency.error = error
    call = guarded("shop.stock", **ONCE, ignored_errors=(KeyError,))(dependency)

    ended = attempt(call, 8)

    assert ended == [error] * 8
    assert circuit(bus).state == "closed"


@pytest.mark.parametrize(
    "error", [http_error(503), http_error(408), ProviderUnavailable("openai", "no answer")], ids=str
)
def test_what_is_the_dependencys_failure_opens_it_and_comes_out_as_it_was_raised(bus, error):
    dependency = Dependency()
    dependency.error = error
    call = guarded("shop.stock", **ONCE)(dependency)

    assert attempt(call, 5) == [error] * 5
    assert circuit(bus).state == "open"


def test_the_callers_mistake_leaves_the_count_as_it_is(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 4)
    dependency.error = http_error(404)
    attempt(call)
    dependency.error = ConnectionError("down")

    attempt(call)

    assert circuit(bus).state == "open"


def test_two_dependencies_have_a_breaker_each(bus):
    down, fine = Dependency(), Dependency()
    fine.error = None

    attempt(guarded("shop.stock", **ONCE)(down), 5)

    assert attempt(guarded("shop.prices", **ONCE)(fine)) == ["done"]
    assert {name: each.state for name, each in Inside(bus).circuits().items()} == {
        "shop.stock": "open",
        "shop.prices": "closed",
    }
