"""`petiole trace` on a real broker: who got each event, attempt by attempt, and what came of it."""

from __future__ import annotations

import json

from petiole.events.subscriptions import Subscription
from tests.support.apps import a_bus, subscribe

SHOP = r"""
from petiole.events import CustomEvent, Event, TextMessageEvent
from petiole.events.registry import registry
from petiole.tasks import Agent, RetryPolicy

registry.declare("custom.sold", {"item": str})
shop = Agent("shop")

def twice(wait_s: float) -> RetryPolicy:
    return RetryPolicy(max_attempts=2, base=wait_s, cap=wait_s, jitter=0.0)

@shop.on("input.message.received")
def sell(event: TextMessageEvent) -> CustomEvent:
    return CustomEvent(
        event_type="custom.sold", stream_id=event.stream_id, content={"parameters": {"item": event.content.text}}
    )

@shop.on("input.message.received", retry=twice(600))
def weigh(event: Event) -> None:
    raise ValueError("the scale\nis broken")

@shop.on("input.message.received", retry=twice(0.1))
def charge(event: Event) -> None:
    raise ValueError("no card")

@shop.on("input.message.received")
def count(event: Event) -> None:
    pass
"""


def test_a_trace_tells_who_got_each_event_what_failed_and_how_it_stands(node, clean_broker_url, a_message, eventually):
    node.module("shop", SHOP)
    node.environment["PETIOLE_AGENTS"] = "shop"
    bus = a_bus(clean_broker_url)
    subscribe(bus, Subscription(agent="absent", function="watch", patterns=("input.*",)))
    node.worker("shop")
    message = a_message("a pear", stream_id="sale")
    bus.publish(message)
    eventually(lambda: bus.stores.dead_letters.count() == 1 and bus.stores.delayed_messages.count() == 1, 20)

    rows = json.loads(node.command("trace", message.event_id, "--json"))
    drawn = node.command("trace", "--stream", "sale", "--last", "1")

    assert rows == json.loads(node.command("trace", "--last", "1", "--stream", "sale", "--json"))
    received = next(row for row in rows if row["event"]["event_type"] == "input.message.received")
    by_name = {each["subscription"]: each for each in received["deliveries"]}
    states = {name: each["state"] for name, each in by_name.items()}
    assert states == {
        "absent.watch": "queued",
        "shop.charge": "dead_lettered",
        "shop.count": "ended",
        "shop.sell": "handled",
        "shop.weigh": "retrying",
    }
    assert by_name["shop.sell"]["events"] == 1
    assert [each["error"] for each in by_name["shop.charge"]["attempts"]] == ["no card", "no card"]
    assert by_name["shop.charge"]["letter"] == "pending"
    assert [each["error_type"] for each in by_name["shop.weigh"]["attempts"]] == ["ValueError"]
    assert by_name["shop.weigh"]["due_ms"] > by_name["shop.sell"]["ended_at_ms"]
    assert "custom.sold" in {row["event"]["event_type"] for row in rows}
    lines = drawn.splitlines()
    assert any("-> shop.charge" in line and line.endswith("(pending): ValueError: no card") for line in lines)
    assert sum("attempt " in line for line in lines) == 3
    assert any(line.endswith("ValueError: the scale is broken") for line in lines)
