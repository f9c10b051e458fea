"""A rolling deploy under load: two versions of an agent and of its event types, forwards, back, and forwards again."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest

from tests.support.processes import Node
from tests.support.traffic import IS_FULL

STAGE_S = 75.0 if IS_FULL else 1.5
"""How long each mix of versions runs under load; there are eight."""

OLD_TYPES = """
from typing import Literal
from petiole.events import Content, Event

class Order(Content):
    number: int

class OrderPlacedEvent(Event):
    event_type: Literal["order.placed"] = "order.placed"
    content: Order

class OrderMovedEvent(Event):
    event_type: Literal["order.moved"] = "order.moved"
    content: Order

def events(number, stream):
    yield OrderPlacedEvent(stream_id=stream, content=Order(number=number))
    yield OrderMovedEvent(stream_id=stream, content=Order(number=number))

def number_of(event):
    return event.content.number
"""

NEW_TYPES = """
from typing import Literal
from petiole.events import Content, Event, registry

class Order(Content):
    number: int
    note: str = ""

class Move(Content):
    position: int

class OrderPlacedEvent(Event):
    event_type: Literal["order.placed"] = "order.placed"
    schema_version: Literal[1, 2] = 2
    content: Order

class OrderMovedEvent(Event):
    event_type: Literal["order.moved"] = "order.moved"
    schema_version: Literal[2] = 2
    content: Move

class OrderRefundedEvent(Event):
    event_type: Literal["order.refunded"] = "order.refunded"
    content: Order

@registry.upcaster("order.moved", from_version=1)
def rename(content):
    return {"position": content["number"]}

def events(number, stream):
    yield OrderPlacedEvent(stream_id=stream, content=Order(number=number, note="new"))
    yield OrderMovedEvent(stream_id=stream, content=Move(position=number))
    yield OrderRefundedEvent(stream_id=stream, content=Order(number=number))

def number_of(event):
    return getattr(event.content, "position", None) or getattr(event.content, "number", 0)
"""

AGENTS = """
import os
import time
import redis
from shop_types import number_of
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent, watcher = Agent("clerk"), Agent("watcher")

def note(handler: str, event: Event, number: int = 0) -> None:
    row = f"{handler} {event.event_id} {event.stream_id} {number} {os.getpid()} {time.time():.3f}"
    store.rpush("handled", row)

@agent.on("order.placed")
def add(event: Event) -> None:
    note("add", event)

@agent.on("order.moved", ordered=True)
def follow(event: Event) -> None:
    note("follow", event, number_of(event))

@watcher.on("*")
def watch(event: Event) -> None:
    if event.event_type.startswith("order."):
        note("watch", event)
"""

OLD_AGENTS = f"""{AGENTS}
@agent.on("order.placed")
def thank(event: Event) -> None:
    note("thank", event)
"""

NEW_AGENTS = f"""{AGENTS}
@agent.on("order.refunded")
def refund(event: Event) -> None:
    note("refund", event)
"""

SERVICE = """
import os, sys, time
import redis
from petiole.tasks import publish
from shop_types import events

name = sys.argv[1]
store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
number = 0
while not store.exists("stop"):
    number += 1
    for event in events(number, f"{name}-{number % 5}"):
        # Directly where the order counts: publishers of a queue may overtake each other.
        (publish if event.event_type == "order.moved" or number % 2 else publish.delay)(event)
        store.rpush("published", f"{event.event_type} {event.event_id}")
    time.sleep(0.05)
"""

HANDLERS = {
    "order.placed": {"add", "watch", "thank"},
    "order.moved": {"follow", "watch"},
    "order.refunded": {"refund", "watch"},
}


def version(node: Node, name: str, types: str, agents: str) -> Node:
    """Make a folder with a version of the package, whose processes share the system's broker."""
    home = node.home / name
    home.mkdir()
    version = replace(
        node,
        home=home,
        environment=node.environment
        | {
            "PYTHONPATH": f"{home}:{node.environment['PYTHONPATH']}",
            "PETIOLE_EVENT_TYPES": "shop_types",
            "PETIOLE_AGENTS": "shop_agents",
        },
    )
    version.module("shop_types", types)
    version.module("shop_agents", agents)
    version.module("service", SERVICE)
    return version


def stop(process: Any) -> None:
    """Stop a worker as a deploy does."""
    process.terminate()
    assert process.wait(timeout=120) == 0


def rows(client: Any, name: str) -> list[list[str]]:
    return [row.split() for row in client.lrange(name, 0, -1)]


def handled(client: Any) -> Counter[tuple[str, str]]:
    """Count what was handled, by handler and event."""
    return Counter((handler, event_id) for handler, event_id, *_ in rows(client, "handled"))


def expected(client: Any) -> set[tuple[str, str]]:
    """List what is to be handled, whatever becomes of the handler that only the old version has."""
    published = rows(client, "published")
    return {(handler, event_id) for topic, event_id in published for handler in HANDLERS[topic] - {"thank"}}


def open_deliveries(inside: Any) -> Counter[tuple[str, str]]:
    """Count what is not settled, by place and subscription."""
    return Counter((each.place, each.entry.subscription) for each in inside.deliveries())


def out_of_order(client: Any) -> list[str]:
    by_stream = defaultdict(list)
    for handler, _, stream, number, *_ in rows(client, "handled"):
        if handler == "follow":
            by_stream[stream].append(int(number))
    return [f"{stream}: {numbers}" for stream, numbers in by_stream.items() if numbers != sorted(numbers)]


@pytest.mark.long
@pytest.mark.timeout(1_200 if IS_FULL else 240)
def test_a_deploy_forwards_and_back_under_load_makes_no_dead_letter_and_loses_nothing(
    node, client, inside, eventually, capsys
):
    old, new = version(node, "old", OLD_TYPES, OLD_AGENTS), version(node, "new", NEW_TYPES, NEW_AGENTS)
    pool = ("--pool", "threads", "-c", "4")

    def under_load() -> None:
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began >= STAGE_S, STAGE_S + 5)

    first = old.worker("o1", *pool)
    old.start("service", "old")
    under_load()
    second = new.worker("n1", *pool)
    new.start("service", "new")
    under_load()
    stop(first)  # forwards
    under_load()
    third = old.worker("o2", "--pool", "prefork", "-c", "2")
    under_load()
    stop(second)  # back
    under_load()
    needed = {"clerk:handler:clerk.refund", "clerk:version:order.moved:2", "publish:type:order.refunded"}
    eventually(lambda: inside.parked().keys() >= needed, 30, inside.parked)
    fourth = new.worker("n2", "--pool", "prefork", "-c", "2")
    under_load()
    stop(third)  # forwards again
    under_load()
    client.set("stop", 1)

    released = {"clerk:handler:clerk.thank"}
    eventually(
        lambda: inside.is_idle("clerk", "watcher", "publish") and inside.parked().keys() <= released,
        120,
        lambda: f"{open_deliveries(inside)}\n{old.logs()[-2000:]}\n{new.logs()[-4000:]}",
    )
    assert expected(client) - handled(client).keys() == set(), "lost"
    old.command("subscriptions", "withdraw", "clerk.thank", "--to", "clerk.add")
    eventually(lambda: not inside.parked() and inside.is_idle("clerk"), 30)

    assert inside.dead_letters() == []
    counts = handled(client)
    twice = {of for of in expected(client) if of[0] != "add" and counts[of] > 1}
    assert [row for row in rows(client, "handled") if (row[0], row[1]) in twice] == [], node.logs()
    with capsys.disabled():
        told = f"{len(rows(client, 'published'))} events published, {counts.total()} deliveries handled"
        print(f"\n{8 * STAGE_S:.0f} s of a deploy forwards, back and forwards: {told}, lost 0, dead letters 0")
    assert out_of_order(client) == []
    assert inside.leaks() == []
    by_event = Counter(event_id for handler, event_id, *_ in rows(client, "handled") if handler in {"thank", "add"})
    placed = {event_id for topic, event_id in rows(client, "published") if topic == "order.placed"}
    odd = {row[1] for row in rows(client, "handled") if row[1] in placed and by_event[row[1]] != 2}
    assert [row for row in rows(client, "handled") if row[1] in odd] == [], "`thank`'s deliveries went to `add` at last"
    stop(fourth)
