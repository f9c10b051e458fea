"""A machine whose clock is an hour wrong: the clock of the broker decides what is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from petiole.events import MessageEvent
from tests.support.apps import a_bus, publish_once
from tests.support.inside import Inside
from tests.support.polling import wait_until

WRONG_CLOCK = """
import os
from datetime import timedelta
import time_machine
if "AHEAD_H" in os.environ:
    time_machine.travel(timedelta(hours=int(os.environ["AHEAD_H"])), tick=True).start()
"""

MODULE = """
import a_wrong_clock
import time
from datetime import timedelta
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context, RetryPolicy, publish

shop = Agent("shop")
MINUTE = timedelta(minutes=1)

def note(what):
    with open("runs", "a") as runs:
        runs.write(f"{what} {time.monotonic()}\\n")

@shop.on("message.flaky", retry=RetryPolicy(base=1.0), expires=MINUTE)
def fail_once(event: Event, context: Context) -> None:
    note(f"flaky.{context.attempt}")
    if context.attempt == 1:
        raise ConnectionError("not yet")

@shop.on("message.start", expires=MINUTE)
def start(event: Event) -> list[Event]:
    note("started")
    publish(event.caused(MessageEvent, event_type="message.delayed"), delay=1.5)
    return [event.caused(MessageEvent, event_type="message.followed")]

@shop.on("message.delayed", expires=MINUTE)
def run_delayed(event: Event) -> None:
    note("delayed")

@shop.on("message.followed", expires=MINUTE)
def follow(event: Event) -> None:
    note("followed")

@shop.answers("add")
def add(a: int, b: int) -> int:
    return a + b
"""

REQUEST = """
import a_wrong_clock
from petiole.tasks import request
print(request("add", responder="shop", a=2, b=3, timeout=20).get().value)
"""

REPEAT = """
import a_wrong_clock
from petiole.events import MessageEvent
from petiole.tasks import publish
event = MessageEvent(event_type="message.start", stream_id="s", event_id="{event_id}", content={{}})
print(publish(event).was_repeated)
"""


def runs(system: Any) -> dict[str, float]:
    file = system.home / "runs"
    lines = file.read_text().splitlines() if file.exists() else []
    return {what: float(at) for what, at in (line.split() for line in lines)}


@pytest.mark.parametrize(
    ("pool", "ahead_h"),
    [
        ("threads", 1),
        ("prefork", -1),
        pytest.param("threads", -1, marks=pytest.mark.long),
        pytest.param("prefork", 1, marks=pytest.mark.long),
    ],
)
def test_a_worker_whose_clock_is_an_hour_wrong_hastens_and_delays_nothing(system, server, ahead_h, pool):
    system.module("a_wrong_clock", WRONG_CLOCK)
    system.module("a_shop", MODULE)
    system.environment.update(PETIOLE_AGENTS="a_shop", AHEAD_H=str(ahead_h))
    system.worker("wrong", "--pool", pool, "-c", "2", "-Q", "shop,publish")
    bus, inside = a_bus(server.url), Inside(server.url)

    for topic in ("message.flaky", "message.start"):
        publish_once(bus, an_event(topic))

    expected = {"flaky.1", "flaky.2", "started", "delayed", "followed"}
    wait_until(lambda: expected <= runs(system).keys(), 20, system.logs)
    at = runs(system)
    assert 0.9 < at["flaky.2"] - at["flaky.1"] < 15
    assert 1.4 < at["delayed"] - at["started"] < 15
    assert bus.request("add", responder="shop", a=2, b=3, timeout=20).get().value == 5
    (followed,) = inside.history("message.followed")
    assert abs(datetime.fromisoformat(followed["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("ahead_h", [1, pytest.param(-1, marks=pytest.mark.long)])
def test_a_service_whose_clock_is_an_hour_wrong_is_answered_in_time_and_publishes_nothing_twice(
    system, server, ahead_h
):
    system.module("a_wrong_clock", WRONG_CLOCK)
    system.module("a_shop", MODULE)
    system.environment.update(PETIOLE_AGENTS="a_shop")
    system.worker("right", "--pool", "threads", "-c", "2", "-Q", "shop,publish")
    event = an_event("message.start")
    publish_once(a_bus(server.url), event)
    system.environment.update(AHEAD_H=str(ahead_h))

    answer, was_repeated = system.run(REQUEST), system.run(REPEAT.format(event_id=event.event_id))

    assert (answer.strip(), was_repeated.strip()) == ("5", "True")


def an_event(topic: str) -> MessageEvent:
    return MessageEvent.model_validate({"event_type": topic, "stream_id": "s", "content": {}})
