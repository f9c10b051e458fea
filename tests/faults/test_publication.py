"""Publishers and brokers that die in mid-publish: every event reached all of its queues, or none.

PETIOLE_FAULTS=full makes the runs as long as `make faults` has them; otherwise they are short.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from tests.support.apps import a_bus, publish_once
from tests.support.inside import Inside
from tests.support.traffic import IS_FULL, an_event

AGENTS = [f"agent-{number}" for number in range(10)]
SUBSCRIPTIONS = [Subscription(agent=name, function="hear", patterns=("input.*",)) for name in AGENTS]


def published_in(inside: Inside) -> list[str]:
    return [event["event_id"] for event in inside.history()]


def assert_all_or_none(inside: Inside) -> int:
    """Hold queues against history; returns how many events were published."""
    recorded = published_in(inside)
    assert len(recorded) == len(set(recorded))
    for name in AGENTS:
        assert inside.queued_events(name) == Counter(recorded), f"{name} differs from the history"
    return len(recorded)


@pytest.mark.timeout(300)
def test_a_publisher_killed_at_any_moment_leaves_no_event_half_published(clean_broker_url, inside):
    a_bus(clean_broker_url, *SUBSCRIPTIONS)
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

    published = assert_all_or_none(inside)
    print(f"kills {kills}, published {published}, half published 0")
    assert published >= kills


def _publish_for_ever(url: str, tells: int) -> None:
    bus = a_bus(url)
    publish_once(bus, an_event(0))
    os.write(tells, b".")
    number = 1
    while True:
        publish_once(bus, an_event(number))
        number += 1


@pytest.mark.timeout(300)
def test_a_broker_killed_under_publishers_loses_nothing_that_was_acknowledged(server):
    bus, inside = a_bus(server.url, *SUBSCRIPTIONS), Inside(server.url)
    acknowledged: list[str] = []
    kills = 20 if IS_FULL else 4

    for _ in range(kills):
        killer = threading.Timer(random.uniform(0.1, 0.4), server.kill)
        killer.start()
        acknowledged += _publish_until_lost(bus)
        killer.join()
        server.start()

    published = assert_all_or_none(inside)
    lost = set(acknowledged) - set(published_in(inside))
    print(f"kills {kills}, acknowledged {len(acknowledged)}, published {published}, lost {len(lost)}")
    assert lost == set()
    assert published - len(acknowledged) <= kills, "only the event at hand may be published without a word"


def _publish_until_lost(bus: EventBus) -> list[str]:
    """Publish until the broker is gone; returns the events whose publication was acknowledged."""
    acknowledged: list[str] = []
    while True:
        event = an_event(len(acknowledged))
        try:
            publish_once(bus, event)
        except (BrokerUnavailable, StateStoreUnavailable):
            return acknowledged
        acknowledged.append(event.event_id)


def test_publishing_again_what_is_uncertain_publishes_it_once(clean_broker_url, inside):
    bus = a_bus(clean_broker_url, *SUBSCRIPTIONS)
    event = an_event()

    for _ in range(3):
        publish_once(bus, event)

    assert assert_all_or_none(inside) == 1
