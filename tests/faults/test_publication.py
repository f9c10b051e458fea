"""Publishers and brokers that die in mid-publish: every event reached all of its queues, or none.

PETIOLE_FAULTS=full makes the runs as long as `make faults` has them; otherwise they are short.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
import redis

from petiole.events import TextMessageEvent
from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.events.subscriptions import Subscription
from petiole.tasks.bus import EventBus
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.document import admit
from tests.support.apps import a_bus
from tests.support.traffic import IS_FULL, an_event

AGENTS = [f"agent-{number}" for number in range(10)]


def publish(bus: EventBus, event: TextMessageEvent) -> None:
    dispatch(bus, [admit(event, bus.event_registry, bus.settings.max_event_bytes)])


def subscribe_all(bus: EventBus) -> None:
    bus.stores.directory.announce(Subscription(agent=name, function="hear", patterns=("input.*",)) for name in AGENTS)


def waiting_in(client: redis.Redis, queue: str) -> Counter[str]:
    """Count the events that wait in a queue, in the lists of all priorities, by id."""
    keys = [str(key) for key in client.keys(f"{queue}*") if client.type(key) == "list"]
    messages = [json.loads(str(each)) for key in keys for each in client.lrange(key, 0, -1)]
    return Counter(json.loads(base64.b64decode(each["body"]))[0][0]["event_id"] for each in messages)


def in_history(bus: EventBus) -> list[str]:
    return [str(recorded.document["event_id"]) for recorded in bus.stores.history.since(count=1_000_000)]


def assert_all_or_none(bus: EventBus, client: redis.Redis) -> int:
    """Hold queues against history; returns how many events were published."""
    recorded = in_history(bus)
    assert len(recorded) == len(set(recorded))
    for name in AGENTS:
        assert waiting_in(client, name) == Counter(recorded), f"{name} differs from the history"
    return len(recorded)


@pytest.mark.timeout(300)
def test_a_publisher_killed_at_any_moment_leaves_no_event_half_published(clean_broker_url):
    bus = a_bus(clean_broker_url)
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    subscribe_all(bus)
    kills = 200 if IS_FULL else 40

    for _ in range(kills):
        has_begun, tells = os.pipe()
        publisher = os.fork()
        if publisher == 0:
            _publish_for_ever(clean_broker_url, tells)
        os.read(has_begun, 1)
        time.sleep(random.uniform(0, 0.05))  # the moment of the kill is the test
        os.kill(publisher, signal.SIGKILL)
        os.waitpid(publisher, 0)
        os.close(has_begun)
        os.close(tells)

    published = assert_all_or_none(bus, client)
    print(f"kills {kills}, published {published}, half published 0")
    assert published >= kills


def _publish_for_ever(url: str, tells: int) -> None:
    bus = a_bus(url)
    publish(bus, an_event(0))
    os.write(tells, b".")
    number = 1
    while True:
        publish(bus, an_event(number))
        number += 1


@pytest.mark.timeout(300)
def test_a_broker_killed_under_publishers_loses_nothing_that_was_acknowledged(server):
    client = server.client()
    bus = a_bus(server.url)
    subscribe_all(bus)
    acknowledged: list[str] = []
    kills = 20 if IS_FULL else 4

    for _ in range(kills):
        killer = threading.Timer(random.uniform(0.1, 0.4), server.kill)
        killer.start()
        acknowledged += _publish_until_lost(bus)
        killer.join()
        server.start()

    published = assert_all_or_none(bus, client)
    lost = set(acknowledged) - set(in_history(bus))
    print(f"kills {kills}, acknowledged {len(acknowledged)}, published {published}, lost {len(lost)}")
    assert lost == set()
    assert published - len(acknowledged) <= kills, "only the event at hand may be published without a word"


def _publish_until_lost(bus: EventBus) -> list[str]:
    """Publish until the broker is gone; returns the events whose publication was acknowledged."""
    acknowledged: list[str] = []
    while True:
        event = an_event(len(acknowledged))
        try:
            publish(bus, event)
        except (BrokerUnavailable, StateStoreUnavailable):
            return acknowledged
        acknowledged.append(event.event_id)


def test_publishing_again_what_is_uncertain_publishes_it_once(clean_broker_url):
    bus = a_bus(clean_broker_url)
    subscribe_all(bus)
    event = an_event()

    for _ in range(3):
        publish(bus, event)

    assert assert_all_or_none(bus, redis.Redis.from_url(clean_broker_url, decode_responses=True)) == 1
