"""Our messages against Celery's own, field by field, as they lie in the broker."""

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
from petiole.tasks import dead_letters
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.bus import EventBus
from petiole.tasks.dead_letters import DeadLetterQuery
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.settings import Settings
from tests.support import apps

MEMORY = Subscription(agent="memory", function="keep", patterns=("input.*",))
# What differs between any two messages of Celery's own, and what only a result backend reads.
ACCIDENTAL = {"delivery_tag", "reply_to"}


def a_bus(url: str, **settings: object) -> EventBus:
    bus = apps.a_bus(settings=Settings.model_validate(settings))
    bus.app.conf.update(broker_url=url, result_backend=url)
    bus.stores.directory.register([MEMORY])
    return bus


def publish(bus: EventBus, event: TextMessageEvent) -> Publication:
    publication: Publication = bus.app.tasks[PUBLISH_TASK].run(event)
    return publication


def the_message(url: str, event: TextMessageEvent, *, in_one_step: bool) -> tuple[str, dict[str, Any]]:
    client = redis.Redis.from_url(url, decode_responses=True)
    client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = in_one_step
    publish(bus, event)
    (key,) = [str(key) for key in client.keys("memory*") if client.type(key) == "list"]
    return key, json.loads(str(client.rpop(key)))


@pytest.mark.parametrize("priority", range(10))
def test_a_message_is_the_same_as_celerys_own(broker_url, priority):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=priority)

    key, ours = the_message(broker_url, event, in_one_step=True)
    their_key, theirs = the_message(broker_url, event, in_one_step=False)

    for message in (ours, theirs):
        # Celery shows these two in the message's properties as well, where nobody reads them.
        for shown in ("argsrepr", "kwargsrepr"):
            message["properties"].pop(shown, None)
        for accidental in ACCIDENTAL:
            assert accidental in message["properties"]
            del message["properties"][accidental]
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


def the_replay(url: str, letter: DeadLetter, *, in_one_step: bool) -> tuple[str, dict[str, Any]]:
    client = redis.Redis.from_url(url, decode_responses=True)
    client.flushall()
    bus = a_bus(url)
    bus.__dict__["publishes_atomically"] = in_one_step
    bus.stores.dead_letters.put(letter)
    assert dead_letters.replay(DeadLetterQuery(), bus=bus).sent == [letter.id]
    (key,) = [str(key) for key in client.keys("memory*") if client.type(key) == "list"]
    return key, json.loads(str(client.rpop(key)))


@pytest.mark.parametrize("shown", ["input.message.received", 'with "quotes", ü and \\'])
def test_the_message_of_a_replayed_letter_is_the_same_as_celerys_own(broker_url, shown):
    event = TextMessageEvent(stream_id="s", content=TextContent(text='with "quotes" and ü'), priority=8)
    document = json.loads(event.model_dump_json()) | {"event_type": shown}
    letter = DeadLetter(
        id=event.event_id, delivery_id="d", subscription="memory.keep", queue="memory", cause="failed", error_type="E",
        error="", traceback="", fingerprint="", attempts=(), at=event.timestamp, document=document,
    )  # fmt: skip

    key, ours = the_replay(broker_url, letter, in_one_step=True)
    their_key, theirs = the_replay(broker_url, letter, in_one_step=False)

    for message in (ours, theirs):
        for accidental in ("argsrepr", "kwargsrepr", *ACCIDENTAL):
            message["properties"].pop(accidental, None)
        message["body"] = json.loads(base64.b64decode(message["body"]))
    assert key == their_key
    assert ours == theirs
    assert (ours["headers"]["petiole_dead_letter"], ours["headers"]["petiole_replay"]) == (letter.id, f"{letter.id}:1")
