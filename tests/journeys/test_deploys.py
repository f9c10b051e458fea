"""Own event types, and a handler that is renamed: what an operator sees, and what is done about it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import kombu
import pytest

from tests.support.inside import delete_queues

TYPES = """
from typing import Literal
from petiole.events import Content, Event

class Order(Content):
    number: int

class OrderPlacedEvent(Event):
    event_type: Literal["order.placed"] = "order.placed"
    content: Order
"""

OLDER_TYPES = """
from typing import Literal
from petiole.events import Content, Event

class Parcel(Content):
    weight_g: int

class OrderSentEvent(Event):
    event_type: Literal["order.sent"] = "order.sent"
    content: Parcel
"""

CLERK = """
import os, redis
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["STORE"])
agent = Agent("clerk")

@agent.on("order.*")
def offer(event: Event) -> None:
    store.rpush("offered", f"{type(event).__name__} {event.content.number}")
"""

WATCHER = """
import os, redis
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["STORE"])
agent = Agent("watcher")

@agent.on("*")
def watch(event: Event) -> None:
    if event.event_type == "order.placed":
        store.rpush("watched", f"{type(event).__name__} {event.content.model_extra['number']}")
"""

PUBLISH = """
from petiole.tasks import publish
publish({{"event_type": "order.placed", "stream_id": "s", "content": {{"number": {number}}}}})
"""


@pytest.fixture
def shop(node):
    """Give a system whose event types are in a module of its own."""
    node.module("shop_types", TYPES)
    node.module("clerk", CLERK)
    store = node.environment["PETIOLE_BROKER_URL"]
    node.environment.update(PETIOLE_AGENTS="clerk", PETIOLE_EVENT_TYPES="shop_types", STORE=store)
    return node


def stop(process: Any) -> None:
    process.terminate()
    assert process.wait(timeout=30) == 0


def test_workers_publishers_and_commands_know_the_types_of_a_module(shop, client, inside, eventually):
    watching = replace(shop, environment=shop.environment | {"PETIOLE_AGENTS": "watcher", "PETIOLE_EVENT_TYPES": ""})
    shop.module("watcher", WATCHER)
    shop.worker("clerk")
    watching.worker("watcher")

    shop.run(PUBLISH.format(number=1))
    shop.command("publish", "order.placed", "--stream", "s", "--content", '{"number": 2}')

    eventually(lambda: client.llen("offered") == client.llen("watched") == 2, 20, shop.logs)
    assert client.lrange("offered", 0, -1) == ["OrderPlacedEvent 1", "OrderPlacedEvent 2"]
    assert client.lrange("watched", 0, -1) == ["Event 1", "Event 2"], "a subscriber to all topics gets unknown types"
    assert inside.dead_letters() == []


def test_a_renamed_handler_is_told_and_what_waits_for_it_goes_to_the_new_one(shop, client, inside, eventually):
    stop(shop.worker("before"))
    shop.module("clerk", CLERK.replace("def offer", "def propose"))
    shop.worker("after")

    shop.run(PUBLISH.format(number=7))
    eventually(lambda: inside.parked() == {"clerk:handler:clerk.offer": 1}, 20, shop.logs)

    assert "handler.missing" in shop.logs()
    (parked,) = json.loads(shop.command("parked", "--json"))
    assert (parked["kind"], parked["name"], parked["count"]) == ("handler", "clerk.offer", 1)
    # A worker says that it is ready before it hears commands.
    missing = "no running worker has the handler clerk.offer"
    eventually(lambda: missing in " ".join(shop.command("subscriptions").split()), 20, shop.logs)
    (clerk,) = [each for each in json.loads(shop.command("agents", "--json")) if each["agent"] == "clerk"]
    assert (clerk["parked"], clerk["without_handler"]) == (1, ["clerk.offer"])

    withdrawn = json.loads(shop.command("subscriptions", "withdraw", "clerk.offer", "--to", "clerk.propose", "--json"))

    assert withdrawn["rerouted"] == 1
    eventually(lambda: client.llen("offered") == 2, 20, shop.logs)
    assert (inside.parked(), inside.subscriptions(), inside.dead_letters()) == ({}, ["clerk.propose"], [])
    assert inside.leaks() == []


@pytest.fixture
def rabbit_shop(shop, rabbit_url):
    """Give the same system on RabbitMQ."""
    shop.environment.update(PETIOLE_BROKER_URL=rabbit_url, PETIOLE_STATE_URL=shop.environment["STORE"])
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "clerk", "publish")
        yield shop
        delete_queues(connection, "clerk", "publish")


@pytest.mark.long
def test_on_rabbitmq_what_was_parked_is_sent_again_when_a_worker_can_run_it(rabbit_shop, client, inside, eventually):
    stop(rabbit_shop.worker("before"))
    rabbit_shop.module("older_types", OLDER_TYPES)
    older = replace(rabbit_shop, environment=rabbit_shop.environment | {"PETIOLE_EVENT_TYPES": "older_types"})
    typeless = older.worker("without-the-type")
    rabbit_shop.run(PUBLISH.format(number=1))
    rabbit_shop.run(PUBLISH.replace("publish(", "publish.delay(").format(number=2))
    eventually(
        lambda: inside.parked() == {"clerk:type:order.placed": 1, "publish:type:order.placed": 1}, 30, inside.parked
    )
    stop(typeless)
    rabbit_shop.module("clerk", CLERK.replace("def offer", "def propose"))
    renamed = rabbit_shop.worker("after")
    eventually(lambda: "clerk:handler:clerk.offer" in inside.parked(), 30, rabbit_shop.logs)
    stop(renamed)

    rabbit_shop.module("clerk", CLERK)
    rabbit_shop.worker("back")

    offered = {"OrderPlacedEvent 1", "OrderPlacedEvent 2"}
    eventually(lambda: set(client.lrange("offered", 0, -1)) >= offered, 40, rabbit_shop.logs)
    assert {need for need in inside.parked() if not need.startswith("clerk:handler:clerk.propose")} == set()
    assert inside.dead_letters() == []
