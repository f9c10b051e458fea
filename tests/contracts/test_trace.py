"""`petiole trace` on a real broker: who got each event, attempt by attempt, and what came of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError

from petiole.events import TextMessageEvent
from petiole.events.subscriptions import Subscription
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.testing import EventTestHarness
from tests.support.apps import a_bus, subscribe

SHOP = r"""
import time
from datetime import UTC, datetime, timedelta
from petiole.events import CustomEvent, Event, TextMessageEvent
from petiole.events.errors import RateLimitExceeded, ServiceUnavailable
from petiole.events.registry import registry
from petiole.tasks import Agent, RetryPolicy, later

registry.declare("custom.sold", {"item": str})
registry.declare("custom.packed", {})
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

seen = []

@shop.on("input.message.received", retry=twice(0.1))
def pack(event: Event):
    seen.append(event.event_id)
    match seen.count(event.event_id):
        case 1:
            raise ValueError("no paper")
        case 2:
            raise ServiceUnavailable("printer.main", datetime.now(UTC) + timedelta(seconds=0.2), 0.2)
        case 3:
            raise RateLimitExceeded("printer.account", "quota", 0.1)
        case 4:
            raise RateLimitExceeded("printer.account", "quota", 0.3)
        case 5:
            return later(0.1)
    time.sleep(0.1)
    return CustomEvent(event_type="custom.packed", stream_id=event.stream_id, content={"parameters": {}})

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
    eventually(lambda: any(each.topic == "custom.packed" for each in bus.stores.history.read_stream("sale")), 30)

    rows = json.loads(node.command("trace", message.event_id, "--json"))
    drawn = node.command("trace", "--stream", "sale", "--last", "1")

    assert rows == json.loads(node.command("trace", "--last", "1", "--stream", "sale", "--json"))
    received = next(row for row in rows if row["event"]["event_type"] == "input.message.received")
    by_name = {each["subscription"]: each for each in received["deliveries"]}
    states = {name: each["state"] for name, each in by_name.items()}
    assert states == {
        "absent.watch": "queued",
        "shop.charge": "dead_lettered",
        "shop.count": "handled",
        "shop.pack": "handled",
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
    assert [(each["kind"], each["until_ms"]) for each in by_name["shop.weigh"]["phases"]][-1] == ("retry", None)
    packed = by_name["shop.pack"]
    assert [each["error"] for each in packed["attempts"]] == ["no paper"]
    assert [(each["reason"], each["subject"], each["times"]) for each in packed["waits"]] == [
        ("retry", "", 1),
        ("breaker", "printer.main", 1),
        ("budget", "printer.account", 2),
        ("deferred", "", 1),
    ]
    kinds = [each["kind"] for each in packed["phases"]]
    reasons = ("retry", "breaker", "budget", "deferred")
    assert kinds == [*(kind for reason in reasons for kind in ("queue", "handler", reason)), "queue", "handler"]
    assert packed["phases"][-1]["until_ms"] - packed["phases"][-1]["from_ms"] >= 100
    starts = [each["from_ms"] for each in packed["phases"]]
    assert starts == sorted(starts)
    budget = re.compile(r"wait  budget printer.account .* [\d,]+ ms \(2 times\): rate limit of account")
    assert any(map(budget.search, lines))
    assert re.match(r"total: \d events, \d deliveries; 4 failed attempts; waited: queue [\d,]+ ms, retry ", lines[-2])
    assert sum(re.search(r" attempt \d", line) is not None for line in lines) == 4
    assert any(line.endswith("ValueError: the scale is broken") for line in lines)


ENDS = r"""
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

shop = Agent("shop")

@shop.on("input.message.received", expires=60)
def hurry(event: Event) -> None:
    pass

@shop.on("input.message.received", retry=RetryPolicy(max_attempts=1))
def drop(event: Event) -> None:
    raise ValueError("broken")

@shop.on("input.message.received")
def count(event: Event) -> None:
    pass
"""


def test_a_trace_tells_what_expired_from_what_was_handled_also_if_the_dead_letter_is_gone(
    node, clean_broker_url, a_message, eventually
):
    node.module("shop", ENDS)
    node.environment["PETIOLE_AGENTS"] = "shop"
    bus = a_bus(clean_broker_url)
    node.worker("shop")
    message = a_message("a pear", stream_id="sale", timestamp=datetime.now(UTC) - timedelta(hours=1))
    bus.publish(message)
    eventually(lambda: bus.stores.dead_letters.count() == 1, 20, node.logs)
    node.command("dead-letters", "discard", "--all", "--yes")

    def states():
        rows = json.loads(node.command("trace", message.event_id, "--json"))
        (received,) = [row for row in rows if row["event"]["event_type"] == "input.message.received"]
        return {each["subscription"]: each["state"] for each in received["deliveries"]}

    expected = {"shop.count": "handled", "shop.drop": "dead_lettered", "shop.hurry": "expired"}
    eventually(lambda: states() == expected, 30, lambda: str(states()))


def test_a_subscription_that_was_announced_later_is_not_named_as_a_recipient(
    node, clean_broker_url, a_message, eventually
):
    node.module("shop", ENDS)
    node.environment["PETIOLE_AGENTS"] = "shop"
    bus = a_bus(clean_broker_url)
    subscribe(bus, Subscription(agent="shop", function="count", patterns=("input.message.received",)))
    early, late = a_message("a pear"), a_message("a plum")
    bus.publish(early)
    node.worker("shop")
    bus.publish(late)

    def recipients(event):
        rows = json.loads(node.command("trace", event.event_id, "--json"))
        (received,) = [row for row in rows if row["event"]["event_type"] == "input.message.received"]
        return {each["subscription"] for each in received["deliveries"]}

    eventually(lambda: bus.stores.dead_letters.count() == 1, 20, node.logs)
    assert recipients(early) == {"shop.count"}
    assert recipients(late) == {"shop.count", "shop.drop", "shop.hurry"}


def test_an_aborted_delivery_is_traced_as_aborted(node, clean_broker_url, a_message, eventually):
    node.module("shop", ENDS)
    node.environment["PETIOLE_AGENTS"] = "shop"
    bus = a_bus(clean_broker_url)
    subscribe(bus, Subscription(agent="shop", function="count", patterns=("input.message.received",)))
    message = a_message("a pear", stream_id="sale")
    bus.publish(message)
    cancel_flow(message.event_id, bus=bus)
    node.worker("shop")

    def states():
        rows = json.loads(node.command("trace", message.event_id, "--json"))
        deliveries = [each for row in rows for each in row["deliveries"]]
        return {each["state"] for each in deliveries if each["subscription"] == "shop.count"}

    eventually(lambda: "aborted" in states(), 30, lambda: str(states()))


def test_a_wait_that_cannot_be_recorded_is_reported_and_the_delivery_is_retried_all_the_same(a_message, monkeypatch):
    runs: list[str] = []
    records: list[object] = []
    agent = Agent("clerk")

    @agent.on("input.message.received", retry=RetryPolicy(max_attempts=2))
    def sell(event: TextMessageEvent) -> None:
        runs.append(event.event_id)
        raise ValueError("no paper")

    with EventTestHarness() as harness:
        harness.add(agent)
        harness.bus.instrumentation.listen(records.append)
        monkeypatch.setattr(harness.bus.stores.delivery_waits, "add", refuse)
        harness.publish(a_message())
        harness.expect_dead_letter()

    assert len(runs) == 2
    assert {each.operation for each in records if isinstance(each, OperationFailed)} == {"wait.record_failed"}


def refuse(*_: object) -> None:
    raise RedisError("the server is full")
