"""Compare our deliveries with Celery's messages, field by field, as workers read them."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import BrokerFull
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus, dead_letters
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.dead_letters import DeadLetterQuery
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.settings import Settings
from tests.support import apps
from tests.support.inside import Inside

MEMORY = Subscription(agent="memory", function="keep", patterns=("input.*",))


def a_bus(url: str, **settings: object) -> EventBus:
    bus = apps.a_bus(settings=Settings.model_validate(settings))
    bus.app.conf.update(broker_url=url, result_backend=url)
    bus.stores.directory.register([MEMORY])
    return bus


def a_message() -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hi"))


def publish(bus: EventBus, event: TextMessageEvent) -> Publication:
    publication: Publication = bus.app.tasks[PUBLISH_TASK].run(event)
    return publication


def publish_one(url: str, event: TextMessageEvent, *, atomically: bool) -> Inside:
    """Publish on an empty server."""
    inside = Inside(url)
    inside.client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = atomically
    publish(bus, event)
    return inside


def read_step(inside: Inside) -> int:
    """Read the priority step of the list in which the only delivery or message stands."""
    (name,) = [key for key in inside.client.scan_iter("*memory*") if inside.client.type(key) == "list"]
    step = re.search(r"\d$", name)
    return int(step[0]) if step else 0


def facts_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker reads of a message: not what an older publisher of Celery left out."""
    body, properties = message["body"], message["properties"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    # A message's `traceparent` is for workers of other libraries; ours read the event's. An entry has its own `due`.
    ignored = {"origin", "traceparent", "petiole_due"}
    headers = {name: value for name, value in message["headers"].items() if value is not None and name not in ignored}
    return {
        "body": json.loads(body),
        "headers": headers,
        "content": (message["content-type"], message["content-encoding"]),
        "route": properties["delivery_info"],
        "correlation": properties["correlation_id"],
    }


@pytest.mark.parametrize("priority", range(10))
def test_a_delivery_is_for_a_worker_the_same_as_celerys_own_message(broker_url, priority):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=priority)

    ours = publish_one(broker_url, event, atomically=True)
    (our_message,), our_step = ours.queued("memory"), read_step(ours)
    theirs = publish_one(broker_url, event, atomically=False)
    (their_message,), their_step = theirs.queued("memory"), read_step(theirs)

    assert facts_of(our_message) == facts_of(their_message)
    assert our_step == their_step


def test_a_bus_publishes_atomically_if_broker_and_store_are_the_same_server(broker_url):
    assert a_bus(broker_url).publishes_atomically
    assert not a_bus(broker_url, state_url=f"{broker_url[:-1]}1").publishes_atomically


def test_a_full_server_fails_a_publication_before_it_writes(clean_broker_url):
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    bus = a_bus(clean_broker_url)
    bus.stores.directory.version()
    bus.cached_routing()
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerFull):
            publish(bus, TextMessageEvent(stream_id="s", content=TextContent(text="hi"), priority=9))
    finally:
        client.config_set("maxmemory", "0")

    assert bus.stores.history.read_after() == []
    assert Inside(clean_broker_url).queue_depth("memory") == 0


def test_a_publisher_sends_to_a_subscription_registered_since_its_last_publish(clean_broker_url):
    bus = a_bus(clean_broker_url)
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))
    assert publish(bus, event).subscriptions == ("memory.keep",)

    a_bus(clean_broker_url).stores.directory.register([MEMORY.model_copy(update={"function": "learn"})])

    another = TextMessageEvent(stream_id="s", content=TextContent(text="again"))
    assert publish(bus, another).subscriptions == ("memory.keep", "memory.learn")


def test_a_publisher_does_not_send_to_a_subscription_unregistered_since_its_last_publish(clean_broker_url):
    bus = a_bus(clean_broker_url)
    other = a_bus(clean_broker_url)
    other.stores.directory.register([MEMORY.model_copy(update={"function": "learn"})])
    assert publish(bus, a_message()).subscriptions == ("memory.keep", "memory.learn")

    other.stores.directory.unregister("memory.keep")

    assert publish(bus, a_message()).subscriptions == ("memory.learn",)


def replay_one(url: str, letter: DeadLetter, *, atomically: bool) -> Inside:
    """Replay a dead letter on an empty server."""
    inside = Inside(url)
    inside.client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = atomically
    bus.stores.dead_letters.put(letter)
    assert dead_letters.replay(DeadLetterQuery(), bus=bus).sent == [letter.id]
    return inside


@pytest.mark.parametrize("event_type", ["input.message.received", 'with "quotes", ü and \\'])
def test_the_delivery_of_a_replayed_letter_is_for_a_worker_the_same_as_celerys_own_message(broker_url, event_type):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=8)
    document = json.loads(event.model_dump_json()) | {"event_type": event_type}
    letter = DeadLetter(
        id=event.event_id, delivery_id="d", subscription="memory.keep", queue="memory", cause="failed", error_type="E",
        error="", traceback="", fingerprint="", attempts=(), at=event.timestamp, document=document,
    )  # fmt: skip

    ours = replay_one(broker_url, letter, atomically=True)
    (our_message,), our_step = ours.queued("memory"), read_step(ours)
    theirs = replay_one(broker_url, letter, atomically=False)
    (their_message,), their_step = theirs.queued("memory"), read_step(theirs)

    assert facts_of(our_message) == facts_of(their_message)
    assert our_step == their_step
    headers = our_message["headers"]
    assert (headers["petiole_dead_letter"], headers["petiole_replay"]) == (letter.id, f"{letter.id}:1")


@pytest.mark.parametrize("document", [None, [], "text"])
def test_a_replayed_letter_without_an_event_reaches_its_subscription(clean_broker_url, document):
    letter = DeadLetter(
        id="a-letter", delivery_id="d", subscription="memory.keep", queue="memory", cause="payload", error_type="E",
        error="", traceback="", fingerprint="", attempts=(), at=datetime.now(UTC), document=document,
    )  # fmt: skip

    (message,) = replay_one(clean_broker_url, letter, atomically=True).queued("memory")

    assert facts_of(message)["body"][0] == [document]
