"""Guarded calls are tried again in time; deliveries are deferred while a circuit is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import RetryLater, ServiceUnavailable, UsageError
from petiole.tasks import Agent, Context, RetryPolicy, guarded
from petiole.tasks.resilience.error_classification import retry_after
from tests.journeys.breakers.dependency import ONCE, RESET_S, Dependency, attempt, circuit, http_error
from tests.support.errors import has_code
from tests.support.inside import Inside


def test_a_call_that_fails_is_tried_again_and_each_try_counts(bus):
    dependency = Dependency()
    call = guarded("shop.stock", attempts=3)(dependency)

    ended = attempt(call, 2)

    assert [type(each) for each in ended] == [ConnectionError, ServiceUnavailable]
    assert dependency.calls == 5


@pytest.mark.parametrize(
    ("headers", "at_least_s"),
    [
        ({"Retry_After": "4"}, 4),
        ({"retry_after_ms": "2500"}, 2.5),
        ({"Retry_After": format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)}, 3599),
    ],
    ids=["seconds", "milliseconds", "date"],
)
def test_a_retry_after_is_obeyed_here_or_by_putting_the_delivery_off(bus, headers, at_least_s):
    dependency = Dependency()
    dependency.error = http_error(429, **headers)
    call = guarded("shop.stock", attempts=2, max_wait=5)(dependency)

    (error,) = attempt(call)

    assert isinstance(error, RetryLater)
    assert error.code == "service_throttled"
    assert error.__cause__ is dependency.error
    assert at_least_s <= error.after_s <= 3600
    waited_here = at_least_s <= 5
    assert dependency.calls == (2 if waited_here else 1)
    assert bus.store_clock.ahead_ms >= (at_least_s * 1_000 if waited_here else 0)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "soon", "", "Thu, 99 Foo 2026"])
def test_a_retry_after_that_is_no_finite_number_and_no_date_counts_as_absent(value):
    assert retry_after(http_error(429, Retry_After=value)) is None
    assert retry_after(http_error(429, retry_after_ms=value, Retry_After="4")) == timedelta(seconds=4)


def test_calls_are_tried_again_only_while_the_delivery_has_time(harness):
    agent, dependency = Agent("shop"), Dependency()

    @agent.on("input.*", timeout=1.0)
    def sell(event: Event) -> None:
        with pytest.raises(ConnectionError):
            guarded("shop.stock", attempts=4, wait=2, max_wait=5)(dependency)()

    harness.add(agent)
    harness.send_through(a_text())

    assert dependency.calls == 1
    assert harness.dead_letters() == []


def test_a_coroutine_is_guarded_too_and_one_that_takes_too_long_has_failed(bus):
    @guarded("shop.stock", **ONCE, timeout=0.01, failures=2)
    async def call() -> None:
        await asyncio.sleep(10)

    async def call_three_times() -> list[object]:
        ended = [await asyncio.gather(call(), return_exceptions=True) for _ in range(3)]
        return [type(each) for (each,) in ended]

    assert asyncio.run(call_three_times()) == [TimeoutError, TimeoutError, ServiceUnavailable]


def test_a_block_is_guarded_too_and_async_ones(bus):
    dependency = Dependency()

    def block() -> None:
        with guarded("shop.stock", reset=RESET_S):
            dependency()

    async def async_block() -> None:
        async with guarded("shop.stock", reset=RESET_S):
            dependency()

    ended = attempt(block, 3) + attempt(lambda: asyncio.run(async_block()), 3)

    assert [type(each) for each in ended] == [ConnectionError] * 5 + [ServiceUnavailable]


def test_one_guard_holds_one_block_and_generators_are_refused(bus):
    guard = guarded("shop.stock")
    with guard:
        pass

    with pytest.raises(UsageError, match="was already entered"), guard:
        pass
    with pytest.raises(UsageError, match="inside it"):

        @guarded("shop.stock")
        def numbers() -> Iterator[int]:
            yield 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("failures", 0),
        ("rate", 1.5),
        ("reset", 0),
        ("window", -1),
        ("timeout", "soon"),
        ("attempts", True),
        ("tries", 3),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_written(option, value):
    with pytest.raises(UsageError, check=has_code("invalid_option"), match=rf"guarded\.{option}"):
        guarded("shop.stock", **{option: value})


def test_a_name_is_written_as_topics_are():
    with pytest.raises(UsageError, check=has_code("invalid_topic")):
        guarded("Shop Stock")


def test_while_it_is_open_deliveries_are_deferred_without_an_attempt_and_handled_when_it_is_back(harness):
    agent, dependency, attempts, sold = Agent("shop"), Dependency(), [], []

    @guarded("shop.stock", attempts=1, failures=2, reset=RESET_S)
    def take() -> str:
        return dependency()

    @agent.on("input.*")
    def sell(event: Event, context: Context) -> None:
        if dependency.calls == 4:
            dependency.error = None
        take()
        attempts.append(context.attempt)
        sold.append(event.event_id)

    harness.add(agent)
    sent = [harness.publish(a_text(str(number))).event.event_id for number in range(20)]
    harness.send_through(a_text("the last one"), timeout=30)

    assert set(sent) < set(sold)
    assert len(sold) == 21
    assert sum(attempt - 1 for attempt in attempts) == 1, "of the failure before the one that opened it"
    assert dependency.calls == 4 + 21
    assert harness.dead_letters() == []


def a_text(text: str = "hi") -> Event:
    return TextMessageEvent(stream_id="s", content=TextContent(text=text))


def test_a_handlers_time_limit_that_ends_a_call_is_the_dependencys_failure(harness):
    agent = Agent("shop")

    @guarded("shop.stock", failures=1)
    def wait_for_it() -> None:
        time.sleep(0.4)  # nobody can end one call on a thread before it returns

    @guarded("shop.prices", failures=1)
    async def wait_for_them() -> None:
        await asyncio.sleep(10)

    @agent.on("input.*", timeout=0.2, retry=RetryPolicy(max_attempts=1))
    def sell(event: Event) -> None:
        wait_for_it()

    @agent.on("input.*", timeout=0.2, retry=RetryPolicy(max_attempts=1))
    async def sell_async(event: Event) -> None:
        await wait_for_them()

    harness.add(agent)
    harness.send_through(a_text())

    states = {name: each.state for name, each in Inside(harness).circuits().items()}
    assert states == {"shop.prices": "open", "shop.stock": "open"}


def test_an_interruption_is_nobodys_failure(bus):
    has_begun = asyncio.Event()

    @guarded("shop.stock", **ONCE, failures=1)
    async def call() -> None:
        has_begun.set()
        await asyncio.sleep(10)

    async def interrupt() -> None:
        task = asyncio.create_task(call())
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupt())

    assert (circuit(bus).state, circuit(bus).failures) == ("closed", 0)
