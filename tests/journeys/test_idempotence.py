"""Functions that act on the world outside: once for each key, and honest where nobody can know."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from petiole.events import Event
from petiole.events.errors import OperationInProgress, OperationOutcomeUnknown, UsageError
from petiole.tasks import Agent, idempotent
from petiole.tasks.patterns.idempotency import OnUnfinished, forget_call, mark_done
from petiole.tasks.testing import EventTestHarness
from tests.support.apps import as_default


class Told(SystemExit):
    """As a process is told to end."""


def in_a_handler(harness: EventTestHarness, a_message: Callable[..., Event], act: Callable[[], object]) -> object:
    """Run something as the handling of a delivery."""
    results: list[object] = []
    agent = Agent("shop")

    @agent.on("input.*")
    def run(event: Event) -> None:
        try:
            results.append(act())
        except Exception as error:
            results.append(error)
            raise

    harness.add(agent)
    harness.send_through(a_message())
    return results[0]


def test_a_function_runs_once_for_each_key_and_its_result_is_remembered(harness, a_message):
    charged: list[str] = []

    @idempotent(key=lambda order, pence: f"charge {order}")
    def charge(order: str, pence: int) -> dict[str, object]:
        charged.append(order)
        return {"receipt": len(charged), "pence": pence, "for": (order,)}

    results = in_a_handler(harness, a_message, lambda: [charge("a", 5), charge("a", 5), charge("b", pence=7)])

    assert charged == ["a", "b"]
    first = {"receipt": 1, "pence": 5, "for": ["a"]}
    assert results == [first, first, {"receipt": 2, "pence": 7, "for": ["b"]}]


def test_the_key_is_the_deliverys_where_none_is_given(harness, a_message):
    calls: list[int] = []
    agent = Agent("shop")

    @idempotent()
    def act() -> int:
        calls.append(1)
        return len(calls)

    @agent.on("input.*")
    def twice(event: Event) -> None:
        assert act() == act()

    harness.add(agent)
    harness.send_through(a_message())
    harness.send_through(a_message())

    assert harness.dead_letters() == []
    assert len(calls) == 2, "one for each delivery"


def test_outside_a_handler_a_key_is_needed():
    @idempotent()
    def act() -> None: ...

    with pytest.raises(UsageError, match="give @idempotent a key"):
        act()


def test_a_coroutine_runs_once_too(harness, a_message):
    calls: list[str] = []

    @idempotent(key=lambda name: name)
    async def act(name: str) -> str:
        calls.append(name)
        return name.upper()

    agent = Agent("shop")
    results: list[str] = []

    @agent.on("input.*")
    async def run(event: Event) -> None:
        results.extend([await act("a"), await act("a")])

    harness.add(agent)
    harness.send_through(a_message())

    assert (calls, results) == (["a"], ["A", "A"])


def test_a_function_that_raises_is_run_again(harness, a_message):
    calls: list[int] = []

    @idempotent(key=lambda: "the key")
    def act() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no connection")
        return len(calls)

    def try_three_times() -> list[int]:
        with pytest.raises(RuntimeError, match="no connection"):
            act()
        return [act(), act()]

    assert in_a_handler(harness, a_message, try_three_times) == [2, 2]


def test_a_time_limit_leaves_a_function_unfinished(harness, a_message):
    @idempotent(key=lambda: "the key", on_unfinished="raise")
    def act() -> None:
        raise SoftTimeLimitExceeded

    def try_twice() -> object:
        with pytest.raises(SoftTimeLimitExceeded):
            act()
        return act()

    assert isinstance(in_a_handler(harness, a_message, try_twice), OperationOutcomeUnknown)


@pytest.mark.parametrize(("choice", "calls_in_all"), [("raise", 1), ("repeat", 2)])
def test_what_was_begun_and_not_done_is_told_or_repeated_by_choice(harness, a_message, choice, calls_in_all):
    calls: list[int] = []
    act = an_act_that_ends_in_the_middle(calls, choice)

    def try_twice() -> object:
        with pytest.raises(Told):
            act()
        return act()

    result = in_a_handler(harness, a_message, try_twice)

    assert len(calls) == calls_in_all
    assert result == "done" if choice == "repeat" else isinstance(result, OperationOutcomeUnknown)


def an_act_that_ends_in_the_middle(calls: list[int], choice: OnUnfinished) -> Callable[[], str]:
    @idempotent(key=lambda: "the key", name="act", on_unfinished=choice)
    def act() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise Told
        return "done"

    return act


def test_who_has_looked_says_what_an_unfinished_effect_is(harness, a_message):
    calls: list[int] = []
    act = an_act_that_ends_in_the_middle(calls, "raise")

    def look() -> list[str]:
        with pytest.raises(Told):
            act()
        mark_done("act", "the key", "found done")
        settled = act()
        assert forget_call("act", "the key")
        return [settled, act()]

    assert in_a_handler(harness, a_message, look) == ["found done", "done"]


def test_a_result_that_is_no_json_is_refused_each_time_and_not_by_acting_again(harness, a_message):
    calls: list[int] = []

    @idempotent(key=lambda: "the key")
    def act() -> object:
        calls.append(1)
        return object()

    def try_twice() -> None:
        for _ in range(2):
            with pytest.raises(UsageError, match="ran, but its result of type object"):
                act()

    in_a_handler(harness, a_message, try_twice)

    assert len(calls) == 1


def test_of_many_at_once_one_runs_and_the_others_are_told_to_wait(harness, monkeypatch):
    as_default(harness.bus, monkeypatch)
    calls: list[int] = []
    others_are_told = threading.Event()

    @idempotent(key=lambda number: "the key")
    def act(number: int) -> int:
        calls.append(number)
        assert others_are_told.wait(10)
        return number

    told: list[str] = []

    def try_once(number: int) -> int | None:
        try:
            return act(number)
        except OperationInProgress as error:
            told.append(str(error))
            if len(told) == 7:
                others_are_told.set()
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(try_once, range(8)))

    assert len(calls) == 1
    assert sorted(results, key=str) == sorted([calls[0], *[None] * 7], key=str)
    assert act(9) == calls[0]


def test_after_its_limit_a_beginning_counts_as_over(harness, monkeypatch):
    as_default(harness.bus, monkeypatch)
    calls: list[int] = []

    @idempotent(key=lambda: "the key", limit=timedelta(0), on_unfinished="repeat")
    def act() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise Told
        return len(calls)

    with pytest.raises(Told):
        act()

    assert act() == 2


SHOP = """
import os, signal
import redis
from petiole.events import Event
from petiole.tasks import Agent, idempotent

world = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
shop = Agent("shop")

@idempotent(key=lambda order: order, on_unfinished="{choice}")
def charge(order):
    if world.rpush("charged", order) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "paid"

@shop.on("input.*")
def sell(event: Event) -> None:
    world.rpush("sold", charge("order 5"))
"""


@pytest.mark.parametrize(
    ("choice", "charged", "sold", "letters"),
    [("raise", 1, 0, 1), pytest.param("repeat", 2, 1, 0, marks=pytest.mark.long)],
)
def test_a_worker_killed_in_the_middle_is_told_of_or_repeated(
    node, client, inside, eventually, a_message, *, choice, charged, sold, letters
):
    node.module("a_shop", SHOP.format(choice=choice))
    node.environment.update(PETIOLE_AGENTS="a_shop", PETIOLE_VISIBILITY_TIMEOUT_S="1")
    first = node.worker("first")
    node.run(f"from tasks import publish; publish({a_message().model_dump(mode='json')!r})")
    first.wait(timeout=20)

    node.worker("second")

    eventually(lambda: client.llen("sold") == sold and len(inside.dead_letters()) == letters, 40, node.logs)
    assert client.llen("charged") == charged
    assert {letter.error_type for letter in inside.dead_letters()} <= {"OperationOutcomeUnknown"}
