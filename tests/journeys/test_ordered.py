"""Ordered subscriptions: events of one key one at a time and in order, whoever works and whatever fails."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from petiole.events import Event, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent
from tests.support.inside import Inside
from tests.support.names import HOSTILE_NAMES

AGENT = """
import os, random, time
import redis
from petiole.events import Event, TextMessageEvent
from petiole.tasks import Agent
from tests.support.inside import Inside
from tests.support.names import HOSTILE_NAMES

seen = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("teller")

@agent.on("input.*", ordered=True)
def tell(event: Event) -> None:
    if not seen.set("busy:" + event.stream_id, "1", nx=True):
        seen.rpush("overlaps", event.stream_id)
    time.sleep(random.uniform(0, 0.004))
    seen.delete("busy:" + event.stream_id)
    if event.content.text.endswith("7") and event.stream_id == "s-0":
        raise RuntimeError("a failing head")
    seen.rpush("told", event.stream_id + " " + event.content.text)
"""

PUBLISH = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish_many
events = [
    TextMessageEvent(stream_id=f"s-{{stream}}", content=TextContent(text=str(number)))
    for number in range({each})
    for stream in range({streams})
]
publish_many(events)
"""


@pytest.fixture
def told(client):
    def read():
        by_stream = defaultdict(list)
        for entry in client.lrange("told", 0, -1):
            stream, number = entry.split()
            by_stream[stream].append(int(number))
        return by_stream

    return read


def test_each_stream_is_told_in_order_over_workers_and_failures(node, told, client, inside, eventually):
    node.module("teller", AGENT)
    node.environment["PETIOLE_AGENTS"] = "teller"
    node.worker("first", "--pool", "threads", "--concurrency", "2")
    node.worker("second", "--pool", "threads", "--concurrency", "2")

    node.run(PUBLISH.format(streams=20, each=30))

    expected = 20 * 30 - 3
    eventually(lambda: sum(map(len, told().values())) == expected, 50, node.logs)
    assert told()["s-0"] == [number for number in range(30) if number % 10 != 7]
    assert all(told()[f"s-{stream}"] == list(range(30)) for stream in range(1, 20))
    assert client.lrange("overlaps", 0, -1) == []
    eventually(lambda: inside.ordered() == [], 10, inside.ordered)
    assert inside.ordered_waiting() == {"teller": 0}


def test_events_of_one_stream_wait_for_their_turn_outside_the_queue_where_a_purge_reaches_them(node, inside):
    node.module("teller", AGENT)
    node.environment["PETIOLE_AGENTS"] = "teller"
    worker = node.worker("first")
    worker.terminate()
    worker.wait(timeout=20)

    node.run(PUBLISH.format(streams=3, each=10))

    assert inside.queue_depth("teller") == 3
    assert inside.ordered_waiting() == {"teller": 3 * 9}

    purged = json.loads(node.command("subscriptions", "withdraw", "teller.tell", "--purge", "--json"))

    assert purged == {"name": "teller.tell", "purged": 30, "rerouted": None}
    assert (inside.queue_depth("teller"), inside.ordered(), inside.ordered_waiting()) == (0, [], {"teller": 0})


def test_an_ordered_subscription_cannot_drop_its_oldest():
    agent = Agent("teller", capacity=10, overflow="drop_oldest")

    with pytest.raises(UsageError, match="ordered"):
        agent.on("input.*", ordered=True)


def test_the_harness_keeps_the_order_too(harness, a_message):
    agent, heard = Agent("teller"), []

    @agent.on("input.*", ordered="content.text")
    def tell(event: Event) -> None:
        heard.append(event.event_id)

    harness.add(agent)
    sent = [harness.publish(a_message("one key")).event.event_id for _ in range(20)]
    harness.send_through(a_message("another key"))

    assert heard[:20] == sent


def test_streams_with_any_names_are_told_beside_each_other_in_order(harness, a_message):
    agent, told = Agent("teller"), defaultdict(list)

    @agent.on("input.*", ordered=True)
    def tell(event: TextMessageEvent) -> None:
        told[event.stream_id].append(event.content.text)

    harness.add(agent)
    for text in "abc":
        for name in HOSTILE_NAMES:
            harness.publish(a_message(text, stream_id=name))

    harness.send_through(a_message("d", stream_id="last"), timeout=60)

    assert {name: "".join(texts) for name, texts in told.items()} == dict.fromkeys(HOSTILE_NAMES, "abc") | {"last": "d"}
    assert Inside(harness).ordered() == []
