"""Publisher and workers in processes of their own, on a real broker."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from petiole.workers.process import embedded_broker

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("{name}")

@agent.on("input.*")
def count(event: Event) -> None:
    handled.rpush("handled", "{name} " + event.event_id)
"""

PUBLISH_100 = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
for number in range(100):
    publish(TextMessageEvent(stream_id="s", content=TextContent(text=str(number))))
import sys
assert not any(name.startswith("workers") for name in sys.modules), "a publisher needs no subscriber's code"
"""


@pytest.fixture
def handlings(client):
    """Count how often each (agent, event) was handled."""
    return lambda: Counter(tuple(entry.split()) for entry in client.lrange("handled", 0, -1))


def agents(node, *names):
    for name in names:
        node.module(f"agent_{name}", AGENT.format(name=name))
    node.environment["PETIOLE_AGENTS"] = ",".join(f"agent_{name}" for name in names)


def test_an_agent_of_ones_own_joins_by_its_name_in_the_environment(node, handlings, eventually):
    agents(node, "one", "two", "three")
    node.worker("first")
    agents(node, "four")
    node.worker("second")

    node.run(PUBLISH_100)

    eventually(lambda: handlings().total() >= 400, 30, node.logs)
    assert Counter(agent for agent, _ in handlings()) == {"one": 100, "two": 100, "three": 100, "four": 100}


def test_a_worker_consumes_only_the_queue_it_is_told(node, handlings, eventually):
    agents(node, "one", "two")
    node.worker("first", "-Q", "one")
    node.worker("second", "-Q", "two").terminate()

    node.run(PUBLISH_100)

    eventually(lambda: handlings().total() >= 100, 30, node.logs)
    assert {agent for agent, _ in handlings()} <= {"one", "two"}
    assert sum(count for (agent, _), count in handlings().items() if agent == "one") == 100


def test_a_plain_celery_client_publishes_by_task_name(node, handlings, eventually, a_message):
    agents(node, "one")
    node.worker("first")
    document = a_message().model_dump(mode="json")

    node.run(f"""
import json, os
from celery import Celery
client = Celery(broker=os.environ["PETIOLE_BROKER_URL"])
client.send_task("petiole.publish", args=[json.loads({json.dumps(json.dumps(document))})], queue="publish")
""")

    eventually(lambda: handlings() == {("one", document["event_id"]): 1}, 30, node.logs)


def test_delay_needs_the_broker_only_and_a_worker_does_the_rest(node, handlings, eventually):
    agents(node, "one")
    node.worker("first")
    node.environment["PETIOLE_STATE_URL"] = "redis://127.0.0.1:1/0"

    node.run("""
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="hello")))
""")

    eventually(lambda: handlings().total() == 1, 30, node.logs)


REFUSED = """
import json
from petiole.events import TextContent, TextMessageEvent, EventContext
from petiole.events.errors import PetioleError, error_type_of
from pydantic import ValidationError
from petiole.tasks import publish

good = json.loads(TextMessageEvent(stream_id="s", content=TextContent(text="hi")).model_dump_json())
deep = {}
for _ in range(100):
    deep = {"deeper": deep}
bad = {
    "payload": good | {"content": {"text": 5}},
    "type": good | {"event_type": "input.mesage.received"},
    "field": good | {"colour": "red"},
    "time": good | {"timestamp": "2026-01-31T12:00:00"},
    "stream": good | {"stream_id": ""},
    "nan": good | {"context": {"extra": {"share": float("nan")}}},
    "size": good | {"content": {"text": "x" * 10_000_000}},
    "depth": good | {"context": {"extra": deep}},
}
for what, document in bad.items():
    for how in (publish, publish.delay):
        try:
            how(document)
        except PetioleError as error:
            print(json.dumps([what, error_type_of(error), str(error)[:300]]))
"""


def test_bad_input_is_refused_in_the_caller_and_nothing_is_sent(node, handlings, inside, eventually):
    agents(node, "one")
    node.worker("first")

    refusals = [json.loads(line) for line in node.run(REFUSED).splitlines()]

    told = {what: (error, message) for what, error, message in refusals}
    assert len(refusals) == 16, "each of eight, by publish and by publish.delay"
    assert {what: error for what, (error, _) in told.items()} == {
        "payload": "wrong_type",
        "type": "unknown_event_type",
        "field": "unknown_field",
        "time": "invalid_value",
        "stream": "invalid_value",
        "nan": "invalid_value",
        "size": "event_too_large",
        "depth": "invalid_value",
    }
    assert "did you mean 'input.message.received'?" in told["type"][1]
    for what, field in {
        "payload": "content.text",
        "field": "colour",
        "time": "timestamp",
        "stream": "stream_id",
    }.items():
        assert field in told[what][1]
    assert (inside.queue_depth("publish", "one"), handlings().total()) == (0, 0)

    node.run(PUBLISH_100)
    eventually(lambda: handlings().total() == 100, 30, node.logs)


def test_a_task_message_that_is_no_event_or_a_pickle_leaves_the_worker_up(node, handlings, eventually):
    agents(node, "one")
    worker = node.worker("first")

    node.run("""
import os
from celery import Celery
client = Celery(broker=os.environ["PETIOLE_BROKER_URL"])
for junk in ({}, {"event_type": "no.such.type"}, [], "text", None, 5, {"event_type": {}}):
    client.send_task("petiole.publish", args=[junk], queue="publish")
    client.send_task("one.count", args=[junk], queue="one")
pickling = Celery(broker=os.environ["PETIOLE_BROKER_URL"])
pickling.conf.update(task_serializer="pickle", accept_content=["pickle", "json"])
pickling.send_task("petiole.publish", args=[{"event_type": "system.tick"}], queue="publish")
""")
    node.run(PUBLISH_100)

    eventually(lambda: handlings().total() == 100, 30, node.logs)
    eventually(lambda: "Refusing to deserialize" in node.logs() or "ContentDisallowed" in node.logs(), 10, node.logs)
    assert worker.poll() is None


def test_a_publisher_without_a_broker_is_told_within_seconds(node):
    node.environment["PETIOLE_BROKER_URL"] = "redis://127.0.0.1:1/0"

    told = node.run("""
from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable
from petiole.tasks import publish
event = TextMessageEvent(stream_id="s", content=TextContent(text="hello"))
for how in (publish, publish.delay):
    try:
        how(event)
    except BrokerUnavailable as error:
        print(error)
""")

    assert told.count("the broker could not be reached while publishing input.message.received") == 2


def test_a_publisher_without_settings_is_told_what_to_set(node):
    del node.environment["PETIOLE_BROKER_URL"]

    told = node.run("""
from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import NotConfigured
from petiole.tasks import publish
event = TextMessageEvent(stream_id="s", content=TextContent(text="hello"))
for how in (publish, publish.delay):
    try:
        how(event)
    except NotConfigured as error:
        print(error)
""")

    assert told.count("set PETIOLE_BROKER_URL, or start the embedded one: petiole up") == 2


FAILING = """
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("one")

@agent.on("input.*")
def fail(event: Event) -> None:
    raise RuntimeError("the disk is full")
"""


def test_a_failed_delivery_is_one_json_line_with_its_ids(node, eventually, a_message):
    node.module("agent_one", FAILING)
    node.environment.update(PETIOLE_AGENTS="agent_one", PETIOLE_LOG_FORMAT="json")
    node.worker("first")
    message = a_message()

    node.run(f"from tasks import publish; publish({message.model_dump(mode='json')!r})")

    eventually(lambda: "delivery.dead_lettered" in node.logs(), 30, node.logs)
    lines = [json.loads(line) for line in node.logs().splitlines() if line.startswith("{")]
    (told,) = [line for line in lines if line["event"] == "delivery.dead_lettered"]
    assert (told["event_id"], told["stream_id"]) == (message.event_id, message.stream_id)
    assert (told["subscription"], told["cause"], told["level"]) == ("one.fail", "failed", "error")
    assert "the disk is full" in told["exception"]


def test_a_worker_without_settings_starts_the_embedded_broker(node):
    node.environment["PETIOLE_BROKER_URL"] = ""
    node.environment["PETIOLE_AGENTS"] = "agent_one"
    node.module("agent_one", FAILING)
    try:
        node.worker("first")

        told = node.run("""
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
print(publish(TextMessageEvent(stream_id="s", content=TextContent(text="hello"))).subscriptions)
""")
    finally:
        embedded_broker.stop_broker(node.home / ".petiole")

    assert told == "('one.fail',)\n"
