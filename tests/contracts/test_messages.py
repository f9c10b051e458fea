"""Compare our messages with Celery's, field by field, as they are stored in the broker."""

from __future__ import annotations

import base64
import json
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

MEMORY = Subscription(agent="memory", function="keep", patterns=("input.*",))
# Fields that differ between any two messages of Celery, and one that only a result backend reads.
VARYING = {"delivery_tag", "reply_to"}


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


def published_message(url: str, event: TextMessageEvent, *, atomically: bool) -> tuple[str, dict[str, Any]]:
    client = redis.Redis.from_url(url, decode_responses=True)
    client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = atomically
    publish(bus, event)
    (key,) = [str(key) for key in client.keys("memory*") if client.type(key) == "list"]
    return key, json.loads(str(client.rpop(key)))


@pytest.mark.parametrize("priority", range(10))
def test_a_message_is_the_same_as_celerys_own(broker_url, priority):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=priority)

    key, ours = published_message(broker_url, event, atomically=True)
    their_key, theirs = published_message(broker_url, event, atomically=False)

    for message in (ours, theirs):
        # Celery also writes these two into the message's properties, where nothing reads them.
        for shown in ("argsrepr", "kwargsrepr"):
            message["properties"].pop(shown, None)
        for field in VARYING:
            assert field in message["properties"]
            del message["properties"][field]
        message["body"] = json.loads(base64.b64decode(message["body"]))
    assert ours == theirs
    assert key == their_key


def test_a_bus_publishes_atomically_if_broker_and_store_are_the_same_server(broker_url):
    assert a_bus(broker_url).publishes_atomically
    assert not a_bus(broker_url, state_url=f"{broker_url[:-1]}1").publishes_atomically


def test_a_queue_key_of_another_type_fails_a_publication_before_it_writes(clean_broker_url):
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    bus = a_bus(clean_broker_url)
    bus.stores.directory.register([Subscription(agent="zoo", function="keep", patterns=("input.*",))])
    client.set("zoo", "not a list")

    with pytest.raises(redis.ResponseError, match="zoo is a string"):
        publish(bus, TextMessageEvent(stream_id="s", content=TextContent(text="hi"), priority=9))

    assert bus.stores.history.read_after() == []
    assert client.llen("memory") == 0


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
    assert client.llen("memory") == 0


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


def replayed_message(url: str, letter: DeadLetter, *, atomically: bool) -> tuple[str, dict[str, Any]]:
    client = redis.Redis.from_url(url, decode_responses=True)
    client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = atomically
    bus.stores.dead_letters.put(letter)
    assert dead_letters.replay(DeadLetterQuery(), bus=bus).sent == [letter.id]
    (key,) = [str(key) for key in client.keys("memory*") if client.type(key) == "list"]
    return key, json.loads(str(client.rpop(key)))


@pytest.mark.parametrize("event_type", ["input.message.received", 'with "quotes", ü and \\'])
def test_the_message_of_a_replayed_letter_is_the_same_as_celerys_own(broker_url, event_type):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=8)
    document = json.loads(event.model_dump_json()) | {"event_type": event_type}
    letter = DeadLetter(
        id=event.event_id, delivery_id="d", subscription="memory.keep", queue="memory", cause="failed", error_type="E",
        error="", traceback="", fingerprint="", attempts=(), at=event.timestamp, document=document,
    )  # fmt: skip

    key, ours = replayed_message(broker_url, letter, atomically=True)
    their_key, theirs = replayed_message(broker_url, letter, atomically=False)

    for message in (ours, theirs):
        for field in ("argsrepr", "kwargsrepr", *VARYING):
            message["properties"].pop(field, None)
        message["body"] = json.loads(base64.b64decode(message["body"]))
    assert key == their_key
    assert ours == theirs
    assert (ours["headers"]["petiole_dead_letter"], ours["headers"]["petiole_replay"]) == (letter.id, f"{letter.id}:1")
