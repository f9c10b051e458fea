"""Handlers of every kind run, keep their place in the flow, and end in time: in each pool that Celery has."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from contextvars import ContextVar

import pytest

from petiole.events import Event, MessageEvent, ParametersContent, Value
from petiole.tasks import Agent, publish
from tests.support.inside import Inside

LIMIT_S = 0.2
PATIENCE_S = 5.0
POOLS = {
    "prefork": ("--pool", "prefork", "-c", "1"),
    "solo": ("--pool", "solo"),
    "threads": ("--pool", "threads", "-c", "2"),
}
every_pool = pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.long) for pool in ("solo", "threads"))]
)


def say(kind: str, event: Event, **parameters: Value) -> MessageEvent:
    content = ParametersContent(parameters=parameters)
    return MessageEvent(event_type=f"message.{kind}", stream_id=event.stream_id, content=content)


def types(harness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def test_an_async_generator_says_its_events_in_order(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    async def talk(event: Event) -> AsyncIterator[Event]:
        yield say("one", event)
        await asyncio.sleep(0)
        publish(say("two", event))
        yield say("three", event)

    harness.add(agent)
    harness.send_through(a_message())

    assert types(harness)[1:] == ["message.one", "message.two", "message.three"]


def test_what_a_failed_async_generator_said_is_not_published(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    async def talk(event: Event) -> AsyncIterator[Event]:
        yield say("one", event)
        raise RuntimeError("the line is cut")

    harness.add(agent)
    harness.publish(a_message())

    assert harness.expect_dead_letter().error == "the line is cut"
    assert "message.one" not in types(harness)


@pytest.mark.parametrize("is_delayed", [False, True])
def test_a_handler_that_publishes_more_events_than_one_commit_takes_is_a_dead_letter(harness, a_message, is_delayed):
    agent, runs = Agent("endless"), []

    @agent.on("input.*")
    def talk(event: Event) -> Iterator[Event]:
        runs.append(event.event_id)
        while True:
            if is_delayed:
                publish(say("one", event), delay=3600)
            else:
                yield say("one", event)

    harness.add(agent)
    harness.publish(a_message())

    letter = harness.expect_dead_letter()
    assert letter.error_type == "too_many_events"
    assert "endless.talk published more than 1,000 events" in letter.error
    assert "raise PETIOLE_MAX_EVENTS_PER_DELIVERY" in letter.error
    assert len(runs) == 1
    assert "message.one" not in types(harness)


def test_as_many_events_as_the_limit_are_published(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    def talk(event: Event) -> list[Event]:
        return [say("one", event) for _ in range(harness.bus.settings.max_events_per_delivery)]

    harness.add(agent)
    harness.send_through(a_message(), timeout=20)

    assert len(Inside(harness).history("message.one")) == 1_000


def test_async_handlers_share_one_loop(harness, a_message):
    agent, loops = Agent("memory"), []

    @agent.on("input.*")
    async def note(event: Event) -> None:
        loops.append(asyncio.get_running_loop())

    harness.add(agent)
    for _ in range(3):
        harness.send_through(a_message())

    assert len(loops) == 3
    assert len(set(map(id, loops))) == 1


def test_an_async_handler_sees_the_context_variables_of_its_delivery(harness, a_message):
    agent, colour = Agent("memory"), ContextVar("colour", default="none")
    seen = []

    @agent.on("input.*")
    async def note(event: Event) -> None:
        seen.append(colour.get())
        colour.set("red")
        # It publishes on behalf of this delivery, which is known by a context variable.
        await asyncio.gather(asyncio.to_thread(publish, say("noted", event)))

    harness.add(agent)
    for _ in range(2):
        harness.send_through(a_message())

    assert harness.expect("message.noted").path == ("memory",)
    assert seen == ["none", "none"], "one delivery's variables are not the next one's"


def test_what_an_async_handler_started_ends_with_it(harness, a_message):
    agent, ended = Agent("memory"), threading.Event()

    async def watch() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @agent.on("input.*")
    async def start(event: Event) -> None:
        asyncio.get_running_loop().create_task(watch())
        await asyncio.sleep(0)

    harness.add(agent)
    harness.send_through(a_message())

    assert ended.is_set()
    assert harness.dead_letters() == []


def test_an_async_handler_that_cancels_itself_is_a_dead_letter(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*")
    async def give_up(event: Event) -> None:
        raise asyncio.CancelledError

    harness.add(agent)
    harness.publish(a_message())

    assert harness.expect_dead_letter().error_type == "CancelledError"


async def wait_for_ever(event: Event) -> None:
    await asyncio.Event().wait()


async def yield_for_ever(event: Event) -> AsyncIterator[Event]:
    while True:
        yield say("again", event)
        await asyncio.sleep(0.01)


async def swallow_the_end(event: Event) -> MessageEvent:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return say("late", event)


def compute_for_ever(event: Event) -> None:
    while True:
        pass


def compute_and_catch_all(event: Event) -> None:
    while True:
        with suppress(Exception):
            time.monotonic()


def yield_and_never_end(event: Event) -> Iterator[Event]:
    while True:
        yield say("again", event)
        time.sleep(0.002)  # more than a thousand events end the handler, too


def return_late(event: Event) -> MessageEvent:
    threading.Event().wait(2 * LIMIT_S)
    return say("late", event)


@pytest.mark.parametrize(
    "handler",
    [
        wait_for_ever,
        yield_for_ever,
        swallow_the_end,
        compute_for_ever,
        compute_and_catch_all,
        yield_and_never_end,
        return_late,
    ],
    ids=lambda handler: handler.__name__,
)
# A blow that lands in a weak reference's callback is dropped by Python, with this warning; the next one hits.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_takes_too_long_is_a_dead_letter_and_says_nothing(harness, a_message, handler):
    agent, other = Agent("slow"), Agent("other")
    agent.on("input.*", timeout=LIMIT_S)(handler)

    @other.on("message.next")
    def answer(event: Event) -> MessageEvent:
        return say("answered", event)

    harness.add(agent)
    harness.add(other)
    harness.publish(a_message())

    letter = harness.expect_dead_letter(within=15)
    assert (letter.error_type, letter.cause) == ("HandlerTimedOut", "failed")
    assert f"{agent.name}.{handler.__name__} exceeded its time limit of {LIMIT_S} s" in letter.error
    assert harness.send_event_and_wait(say("next", a_message()), "message.answered")
    assert not {"message.again", "message.late"} & set(types(harness))


def test_a_handler_that_ends_in_time_is_left_alone(harness, a_message):
    agent = Agent("quick")

    @agent.on("input.*", timeout=PATIENCE_S)
    def answer(event: Event) -> MessageEvent:
        return say("answered", event)

    @agent.on("input.*", timeout=PATIENCE_S)
    async def answer_later(event: Event) -> MessageEvent:
        return say("answered_later", event)

    harness.add(agent)
    harness.send_through(a_message())

    assert {"message.answered", "message.answered_later"} <= set(types(harness))
    assert harness.dead_letters() == []


def test_a_time_limit_inside_a_handler_is_its_own_failure(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*", timeout=PATIENCE_S)
    async def ask(event: Event) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    harness.add(agent)
    harness.publish(a_message())

    assert harness.expect_dead_letter().error_type == "TimeoutError"


def test_a_coroutine_has_ended_when_its_delivery_has(harness, a_message):
    agent, ended = Agent("memory"), threading.Event()

    @agent.on("input.*", timeout=LIMIT_S)
    async def hold_on(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(LIMIT_S)
            ended.set()

    harness.add(agent)
    harness.publish(a_message())

    harness.expect_dead_letter()
    assert ended.is_set()


SLOW = """
import asyncio, contextvars, os, time
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, RetryPolicy

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("slow")
loops = set()

def note(what):
    handled.rpush("handled", f"{what} {os.getpid()}")

@agent.on("message.waits", timeout=0.3, retry=RetryPolicy(max_attempts=1))
async def waits(event: Event) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        note("coroutine_ended")

@agent.on("message.computes", timeout=0.3, retry=RetryPolicy(max_attempts=1))
def computes(event: Event) -> None:
    while True:
        pass

@agent.on("message.sleeps", timeout=0.3, retry=RetryPolicy(max_attempts=1))
def sleeps(event: Event) -> None:
    time.sleep(20)

@agent.on("message.blocks", timeout=0.3, retry=RetryPolicy(max_attempts=1))
async def blocks(event: Event) -> None:
    time.sleep(20)

@agent.on("message.loops")
async def loops_of_this_process(event: Event) -> None:
    # Kept, so that no two loops can have one id.
    loops.add(asyncio.get_running_loop())
    note(f"loops:{len(loops)}")

@agent.on("message.stays")
async def stays(event: Event) -> None:
    async def stay():
        try:
            await asyncio.Event().wait()
        finally:
            note("closed")
    agent.kept = asyncio.create_task(stay(), context=contextvars.Context())
    await asyncio.sleep(0)
    note("stays")
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish
for kind in {kinds!r}:
    publish(MessageEvent(event_type="message." + kind, stream_id="s"))
"""


@pytest.fixture
def handled(node, client):
    """Tell what the agent `slow` noted, and in which process."""
    node.module("agent_slow", SLOW)
    node.environment["PETIOLE_AGENTS"] = "agent_slow"
    return lambda: [tuple(entry.split()) for entry in client.lrange("handled", 0, -1)]


@pytest.fixture
def dead_letters(inside):
    """Tell the dead letters: (subscription, type of error)."""
    return lambda: [(letter.subscription, letter.error_type) for letter in inside.dead_letters()]


@every_pool
def test_a_worker_goes_on_after_timeouts(node, handled, dead_letters, eventually, pool):
    node.worker("first", *POOLS[pool])

    node.run(PUBLISH.format(kinds=["waits", "computes", "loops", "loops"]))

    eventually(lambda: len(handled()) == 3, 20, node.logs)
    eventually(lambda: len(dead_letters()) == 2, 20, node.logs)
    assert sorted(dead_letters()) == [("slow.computes", "HandlerTimedOut"), ("slow.waits", "HandlerTimedOut")]
    assert {what for what, _ in handled()} == {"coroutine_ended", "loops:1"}
    assert len({process for _, process in handled()}) == 1, "it is the same process all the time"


@pytest.mark.parametrize("pool", ["prefork", pytest.param("solo", marks=pytest.mark.long)])
def test_on_the_main_thread_also_what_waits_in_a_call_is_ended(node, handled, dead_letters, eventually, pool):
    node.worker("first", *POOLS[pool])

    node.run(PUBLISH.format(kinds=["sleeps", "blocks", "loops"]))

    # A coroutine has five seconds to clean up before it is treated as a function is.
    eventually(lambda: bool(handled()), 20, node.logs)
    assert sorted(dead_letters()) == [
        ("slow.blocks", "HandlerTimedOut"),
        ("slow.sleeps", "HandlerTimedOut"),
    ]


@every_pool
def test_the_loop_is_closed_when_its_process_ends(node, handled, eventually, pool):
    worker = node.worker("first", *POOLS[pool])
    node.run(PUBLISH.format(kinds=["stays"]))
    eventually(lambda: [what for what, _ in handled()] == ["stays"], 20, node.logs)

    worker.terminate()
    worker.wait(timeout=20)

    assert [what for what, _ in handled()] == ["stays", "closed"]
