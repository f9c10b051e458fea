"""Deliveries that end with their acknowledgement: once each, in real workers."""

from __future__ import annotations

from collections import Counter

import pytest

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("quiet")

@agent.on("message.said")
def hear(event: Event) -> None:
    store.rpush("heard", event.stream_id)
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish_many
events = [MessageEvent(event_type="message.said", stream_id=str(number)) for number in range(100)]
publish_many(events)
publish_many(events[:20])
"""

EVENTS = 100


@pytest.mark.parametrize(
    "pool",
    [
        ("--pool", "threads", "-c", "4"),
        pytest.param(("--pool", "solo"), marks=pytest.mark.long),
        pytest.param(("--pool", "prefork", "-c", "2"), marks=pytest.mark.long),
    ],
    ids=lambda options: options[1],
)
def test_a_delivery_without_events_is_handled_once_if_published_twice(node, client, inside, eventually, pool):
    node.module("agent_quiet", AGENT)
    node.environment["PETIOLE_AGENTS"] = "agent_quiet"
    announced = node.worker("announces", *pool)
    announced.terminate()
    announced.wait(timeout=20)
    node.run(PUBLISH)

    node.worker("first", *pool, "--prefetch-multiplier", "64")

    eventually(lambda: inside.is_idle("quiet"), 30, node.logs)
    assert Counter(client.lrange("heard", 0, -1)) == {str(number): 1 for number in range(EVENTS)}
    assert inside.attempted() == inside.references() == 0
