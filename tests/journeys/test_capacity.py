"""A queue that is full: what a publisher meets there, with no worker to empty it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer
from typing import Any

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import QueueFull, UsageError
from petiole.events.subscriptions import Overflow
from petiole.tasks import Agent, EventBus
from petiole.tasks.publishing.commit import Publication
from tests.support import apps

CAPACITY = 10


def a_bus(url: str, overflow: Overflow, *, block_timeout_s: float = 1.0) -> EventBus:
    return apps.a_bus(
        url, a_listener("memory", capacity=CAPACITY, overflow=overflow), queue_full_timeout_s=block_timeout_s
    )


def a_listener(name: str, **options: Any) -> Agent:
    agent = Agent(name, **options)

    @agent.on("input.*")
    def hear(event: Event) -> None: ...

    return agent


def publish(bus: EventBus, number: int = 0) -> Publication:
    event = TextMessageEvent(stream_id="s", content=TextContent(text=str(number)), priority=9)
    return apps.publish_once(bus, event)


def test_exactly_the_capacity_is_accepted_and_the_rest_refused(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, "reject")

    for number in range(CAPACITY):
        publish(bus, number)
    for number in range(CAPACITY, 25):
        with pytest.raises(QueueFull, match="'memory' is full"):
            publish(bus, number)

    assert inside.queue_depth("memory") == CAPACITY
    assert len(inside.topics()) == CAPACITY


def test_a_publisher_waits_for_room_as_long_as_it_is_told(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, "block", block_timeout_s=0.5)
    for number in range(CAPACITY):
        publish(bus, number)
    began = time.monotonic()

    with pytest.raises(QueueFull):
        publish(bus)

    assert 0.4 < time.monotonic() - began < 5


def test_a_waiting_publisher_goes_on_when_there_is_room(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, "block", block_timeout_s=20)
    for number in range(CAPACITY):
        publish(bus, number)
    Timer(0.2, inside.drop_next, ["memory"]).start()

    assert publish(bus).subscriptions == ("memory.hear",)

    assert inside.queue_depth("memory") == CAPACITY


def test_the_oldest_gives_way_and_is_counted(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, "drop_oldest")

    for number in range(25):
        publish(bus, number)

    assert inside.queue_depth("memory") == CAPACITY
    assert inside.counts() == {"dropped_oldest:memory": 15}
    assert len(inside.topics()) == 25


def test_racing_publishers_never_exceed_the_capacity(clean_broker_url, inside):
    apps = [a_bus(clean_broker_url, "reject") for _ in range(8)]

    def try_to_publish(bus: EventBus) -> int:
        accepted = 0
        for number in range(5):
            try:
                publish(bus, number)
                accepted += 1
            except QueueFull:
                continue
        return accepted

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(try_to_publish, apps))

    assert sum(accepted) == inside.queue_depth("memory") == CAPACITY


def test_a_full_queue_of_one_agent_keeps_the_event_from_all(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, "reject")
    apps.subscribe(bus, a_listener("other"))
    for number in range(CAPACITY):
        publish(bus, number)

    with pytest.raises(QueueFull):
        publish(bus)

    assert inside.queue_depth("other") == CAPACITY


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(UsageError, match="capacity"):
        Agent("memory", capacity=capacity)
