"""Circuit breakers: what is down is left alone by all workers at once, and called again when it is back."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from functools import partial

import pytest
from click.testing import Result
from pydantic import TypeAdapter

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import ProviderRefused, ProviderUnavailable, RetryLater, ServiceUnavailable, UsageError
from petiole.tasks import Agent, Context, RetryPolicy, guarded
from petiole.tasks.bus import EventBus
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.testing.harness import EventTestHarness
from tests.support.apps import a_bus, as_default, ask_the_state_store_each_time, command_line, state_store_away
from tests.support.errors import has_code
from tests.support.inside import Inside

RESET_S = 30
ONCE = {"attempts": 1, "reset": RESET_S}


@pytest.fixture
def bus(harness: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> EventBus:
    """Give a bus whose time stands still until it is skipped, more or less."""
    as_default(harness.bus, monkeypatch)
    return harness.bus


class Dependency:
    """Something that is called, and raises what it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = ConnectionError("it is down")

    def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "done"


def attempt(call: Callable[[], object], times: int = 1) -> list[object]:
    """Call so often; returns what came of it."""
    ended: list[object] = []
    for _ in range(times):
        try:
            ended.append(call())
        except Exception as error:  # noqa: BLE001 - it is what is asserted on
            ended.append(error)
    return ended


def circuit(bus: EventBus, name: str = "shop.stock") -> Circuit:
    return Inside(bus).circuits()[name]


def told(harness, pattern: str = "") -> list[Event]:
    return [each for each in harness.published_events() if "circuit" in each.event_type and pattern in each.event_type]


def http_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://127.0.0.1/", status, "no", message, None)


# What opens it, and what closes it


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
    assert statistics.median(took_s) < 0.010


def test_a_rate_of_failures_opens_it_though_no_five_are_in_a_row(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, rate=0.5, least_calls=10, window=60)(dependency)

    for error in (None, ConnectionError("down")) * 5:
        assert circuit_state(bus) == "closed"
        dependency.error = error
        attempt(call)

    assert circuit_state(bus) == "open"


def test_failures_before_the_window_do_not_count_for_the_rate(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, rate=0.5, least_calls=4, window=60)(dependency)
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


# The probe


def test_of_ten_callers_at_once_one_probes_and_its_success_closes(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    refused = threading.Semaphore(0)

    @guarded("shop.stock", **ONCE)
    def slow_call() -> str:
        for _ in range(9):
            assert refused.acquire(timeout=10)
        return "done"

    def try_once(_: int) -> object:
        (ended,) = attempt(slow_call)
        if isinstance(ended, ServiceUnavailable):
            refused.release()
        return ended

    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(try_once, range(10)))

    assert ended.count("done") == 1
    assert sum(isinstance(each, ServiceUnavailable) for each in ended) == 9
    assert circuit(bus).state == "closed"


def test_while_it_is_down_there_is_one_probe_for_each_reset_time_and_one_warning(bus, harness):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)

    for _ in range(3):
        bus.store_clock.skip(RESET_S)
        attempt(call, 10)
    assert dependency.calls == 5 + 3
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    attempt(call, 10)

    assert dependency.calls == 5 + 3 + 10
    assert len(told(harness, "error.circuit_opened")) == 1
    opened = [each.content.reopened for each in told(harness, "system.circuit.opened")]  # type: ignore[attr-defined]
    assert opened == [False, True, True, True]
    assert len(told(harness, "system.circuit.half_opened")) == 4
    assert len(told(harness, "system.circuit.closed")) == 1


def test_a_late_success_of_an_earlier_epoch_does_not_close_it_and_a_late_failure_does_not_open_it(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    late = [guarded("shop.stock", **ONCE) for _ in range(6)]
    for each in late:
        each.__enter__()
    attempt(call, 5)

    late[0].__exit__(None, None, None)

    assert circuit(bus).state == "open"
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    attempt(call)
    for each in late[1:]:
        each.__exit__(ConnectionError, ConnectionError("late"), None)
    assert (circuit(bus).state, circuit(bus).failures) == ("closed", 0)


def test_when_a_worker_dies_during_its_probe_another_one_probes_after_the_lease(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, timeout=60)(dependency)
    attempt(call, 5)
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    guarded("shop.stock", **ONCE, timeout=60).__enter__()  # and nobody leaves it

    bus.store_clock.skip(50)
    assert isinstance(attempt(call)[0], ServiceUnavailable)
    bus.store_clock.skip(10)

    assert attempt(call) == ["done"]
    assert circuit(bus).state == "closed"


def test_a_probe_that_never_reached_the_dependency_leaves_the_probing_to_the_next(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    dependency.error = UsageError("a bad call")
    attempt(call)
    assert circuit(bus).state == "half_open"
    dependency.error = None

    assert attempt(call) == ["done"]


def test_a_probe_that_is_refused_as_the_callers_mistake_closes_it(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    dependency.error = http_error(404)

    attempt(call)

    assert circuit(bus).state == "closed"


# Trying again


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
    call = guarded("shop.stock", attempts=2, longest_wait=5)(dependency)

    (error,) = attempt(call)

    assert isinstance(error, RetryLater)
    assert error.code == "service_throttled"
    assert error.__cause__ is dependency.error
    assert at_least_s <= error.after_s <= 3600
    waited_here = at_least_s <= 5
    assert dependency.calls == (2 if waited_here else 1)
    assert bus.store_clock.ahead_ms >= (at_least_s * 1_000 if waited_here else 0)


def test_calls_are_tried_again_only_while_the_delivery_has_time(harness):
    agent, dependency = Agent("shop"), Dependency()

    @agent.on("input.*", timeout=1.0)
    def sell(event: Event) -> None:
        with pytest.raises(ConnectionError):
            guarded("shop.stock", attempts=4, wait=2, longest_wait=5)(dependency)()

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

    with pytest.raises(UsageError, match="one guard holds one block"), guard:
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


# Deliveries


def test_while_it_is_open_deliveries_are_put_off_without_an_attempt_and_handled_when_it_is_back(harness):
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


# Where the state store is away


def test_without_the_state_store_calls_go_through_and_that_is_an_alarm(monkeypatch, caplog):
    as_default(a_bus("memory://", state_url="redis://127.0.0.1:9"), monkeypatch)
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)

    ask_the_state_store_each_time(monkeypatch)
    with caplog.at_level(logging.ERROR):
        ended = attempt(call, 8)

    assert [type(each) for each in ended] == [ConnectionError] * 8
    assert dependency.calls == 8
    assert [each.message for each in caplog.records] == ["breaker.store_failed"]


def test_without_any_store_configured_a_guarded_function_is_a_function(monkeypatch):
    as_default(a_bus("memory://", state_url=""), monkeypatch)

    assert guarded("shop.stock")(lambda: "done")() == "done"


def test_calls_that_went_unguarded_are_counted_when_the_store_is_back(harness, bus, monkeypatch):
    dependency = Dependency()
    dependency.error = None
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call)
    ask_the_state_store_each_time(monkeypatch)
    with state_store_away(harness):
        attempt(call, 3)

    attempt(call)

    assert Inside(bus).counts()["calls_without_breaker"] == 3


# By hand


@pytest.fixture
def type_command(bus, monkeypatch) -> Callable[..., Result]:
    return partial(command_line(bus, monkeypatch), "breakers")


def test_an_operator_sees_opens_and_closes_a_breaker(bus, harness, type_command):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 4)
    dependency.error = None

    assert "shop.stock is open" in type_command("open", "shop.stock").output
    bus.store_clock.skip(10 * RESET_S)
    assert isinstance(attempt(call)[0], ServiceUnavailable)
    assert "when it is closed by hand" in type_command().output.replace("\n", " ")
    assert "shop.stock is open already" in type_command("open", "shop.stock", "--for", "20").output
    (shown,) = json.loads(type_command("--json").output)
    assert (shown["name"], shown["state"], shown["failures"]) == ("shop.stock", "open", 0)
    bus.store_clock.skip(20)
    assert attempt(call) == ["done"]
    assert "shop.stock is closed already" in type_command("close", "shop.stock").output
    assert [each.event_type for each in told(harness)] == [
        "system.circuit.opened",
        "error.circuit_opened",
        "system.circuit.half_opened",
        "system.circuit.closed",
    ]


def test_closing_by_hand_ends_the_wait_and_a_probe_under_way_changes_nothing_more(bus, type_command):
    dependency = Dependency()
    attempt(guarded("shop.stock", **ONCE)(dependency), 5)
    bus.store_clock.skip(RESET_S)
    probe = guarded("shop.stock", **ONCE)
    probe.__enter__()

    assert type_command("close", "shop.stock").exit_code == 0
    probe.__exit__(ConnectionError, ConnectionError("late"), None)

    assert (circuit(bus).state, circuit(bus).failures) == ("closed", 0)


def test_a_breaker_that_nobody_knows_is_refused_by_the_nearest_name(bus, type_command):
    attempt(guarded("shop.stock", **ONCE)(Dependency()))

    refused = type_command("close", "shop.stok")

    assert refused.exit_code == 2
    assert "did you mean 'shop.stock'?" in refused.output
