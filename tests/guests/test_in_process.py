"""EventBus() is an event bus in this process alone: for scripts, notebooks and tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, EventBus, RetryPolicy, dead_letters


def test_a_subscriber_hears_what_is_published(a_message):
    heard: list[str] = []

    def hear(event: TextMessageEvent) -> None:
        heard.append(event.content.text)

    with EventBus() as bus:
        bus.subscribe("input.*", hear)
        bus.publish(a_message("now"))
        bus.publish.delay(a_message("by a worker"))
        bus.publish(a_message("later"), delay=0.2)
        bus.wait()

    assert sorted(heard) == ["by a worker", "later", "now"]


def test_what_a_subscriber_returns_is_published(a_message):
    heard: list[str] = []

    def repeat(event: Event) -> MessageEvent:
        return event.caused(MessageEvent, event_type="message.repeated")

    def hear(event: TextMessageEvent) -> None:
        heard.append(event.event_type)

    with EventBus() as bus:
        bus.subscribe("input.*", repeat, agent="repeater")
        bus.subscribe("message.*", hear, agent="hearer")
        bus.publish(a_message())
        bus.wait()

    assert heard == ["message.repeated"]


def test_a_request_is_answered():
    agent = Agent("adder")

    @agent.answers("add")
    def add(one: int, two: int) -> int:
        return one + two

    with EventBus() as bus:
        bus.include(agent)
        answer = bus.request("add", responder="adder", returns=int, one=1, two=2).get(timeout=10)

    assert answer.value == 3


def test_a_delivery_that_fails_comes_again_after_its_delay_and_ends_as_a_dead_letter(a_message):
    tries: list[int] = []

    def fail(event: TextMessageEvent) -> None:
        tries.append(1)
        raise ValueError("no")

    with EventBus() as bus:
        bus.subscribe("input.*", fail, retry=RetryPolicy(max_attempts=2, base=0.1))
        bus.publish(a_message())
        bus.wait()
        letters = [kept.letter for kept in dead_letters.find_dead_letters(bus=bus)]

    assert (len(tries), [len(letter.attempts) for letter in letters]) == (2, [2])


def test_with_ends_the_worker():
    before = set(threading.enumerate())

    with EventBus() as bus:
        bus.start()
        assert set(threading.enumerate()) - before

    assert not set(threading.enumerate()) - before


def test_two_buses_at_once_hear_nothing_of_each_other(a_message):
    heard: list[tuple[str, str]] = []

    def listener(name: str):
        def hear(event: TextMessageEvent) -> None:
            heard.append((name, event.content.text))

        return hear

    with EventBus() as one, EventBus() as two:
        one.subscribe("input.*", listener("one"))
        two.subscribe("input.*", listener("two"))
        one.publish(a_message("1"))
        two.publish(a_message("2"))
        one.wait()
        two.wait()

    assert sorted(heard) == [("one", "1"), ("two", "2")]


async def _use_a_bus(message: Event) -> list[str]:
    heard: list[str] = []

    async def hear(event: TextMessageEvent) -> None:
        await asyncio.sleep(0)
        heard.append(event.content.text)

    with EventBus() as bus:
        bus.subscribe("input.*", hear)
        bus.publish(message)
        bus.wait()
    return heard


def test_it_works_in_a_loop_that_runs_as_in_a_notebook(a_message):
    assert asyncio.run(_use_a_bus(a_message("a"))) == ["a"]


def test_agents_are_added_before_the_first_publish(a_message):
    with EventBus() as bus:
        bus.publish(a_message())

        with pytest.raises(UsageError, match="before the first publish"):
            bus.include(Agent("late"))


SCRIPT = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus

def hear(event):
    print(event.content.text)

bus = EventBus()
bus.subscribe("input.*", hear)
bus.publish(TextMessageEvent(stream_id="s", content=TextContent(text="a")))
bus.wait()
"""


def test_a_script_that_closes_nothing_ends_and_leaves_nothing_on_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "")
    assert list(tmp_path.iterdir()) == []
