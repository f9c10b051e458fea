"""Deliveries that share a job of the pool are still deliveries of their own, in each pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events.ids import delivery_ids
from petiole.tasks import EventBus
from tests.support.apps import a_bus
from tests.support.inside import Inside

AGENT = """
import os
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, RetryPolicy

store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("quick")

@agent.on("message.fine", "message.fail", "message.hold", "message.crash", batch=32, retry=RetryPolicy(max_attempts=1))
def act(event: Event) -> MessageEvent:
    kind = event.event_type.removeprefix("message.")
    store.rpush("handled", f"{kind} {event.stream_id}")
    if kind == "fail":
        raise RuntimeError("the disk is full")
    if kind == "hold":
        store.blpop("go", timeout=30)
    if kind == "crash" and store.incr("crashes") <= int(os.environ["CRASHES"]):
        os._exit(1)
    return event.caused(MessageEvent, event_type="message.done")
"""


class System:
    """A system with the agent `quick`, whose handler notes what it handles, and waits or crashes as it is told."""

    def __init__(self, node, client, inside: Inside, bus: EventBus) -> None:
        self.node = node
        self.store = client
        self.inside = inside
        self.bus = bus
        node.module("agent_quick", AGENT)
        node.environment.update(PETIOLE_AGENTS="agent_quick", CRASHES="1")

    def publish(self, *kinds: str) -> None:
        """Publish one event of each kind, in streams numbered from 0."""
        self.node.run(f"""
from petiole.events import MessageEvent
from petiole.tasks import publish
for number, kind in enumerate({kinds!r}):
    publish(MessageEvent(event_type="message." + kind, stream_id=str(number)))
""")

    def handled(self) -> Counter[str]:
        """Count how often each `kind stream` was handled."""
        return Counter(map(str, self.store.lrange("handled", 0, -1)))

    def are_fetched(self) -> bool:
        """Tell whether the worker holds all that waits for it."""
        return self.inside.queue_depth("quick") == 0

    def release(self) -> None:
        """Let a handler that holds go on."""
        self.store.rpush("go", "on")

    def published(self) -> dict[str, dict[str, Any]]:
        """Tell the published events by stream, without what the handler said."""
        events = [each for each in self.inside.history() if each["event_type"].startswith("message.")]
        return {each["stream_id"]: each for each in events if each["event_type"] != "message.done"}

    def delivery(self, stream: str) -> str:
        """Name the delivery of the event of a stream."""
        return delivery_ids(self.published()[stream]["event_id"], ["quick.act"])[0]

    def outcome(self) -> object:
        """Tell the dead letters' types of error, and how many events were said."""
        letters = sorted(letter.error_type for letter in self.inside.dead_letters())
        return [letters, self.inside.topics().count("message.done")]

    def states(self) -> Counter[str]:
        """Count the worker's deliveries by state, as `inspect query_task` tells."""
        replies = self.bus.app.control.inspect().query_task(*map(self.delivery, self.published())) or {}
        return Counter(state for reply in replies.values() for state, _ in reply.values())


@pytest.fixture
def system(node, client, inside, clean_broker_url) -> Iterator[System]:
    with a_bus(clean_broker_url) as bus:
        yield System(node, client, inside, bus)


@pytest.mark.parametrize(
    "pool",
    [
        ("--pool", "prefork", "-c", "2"),
        pytest.param(("--pool", "threads", "-c", "2"), marks=pytest.mark.long),
        pytest.param(("--pool", "solo"), marks=pytest.mark.long),
    ],
    ids=lambda options: options[1],
)
def test_each_delivery_of_a_backlog_has_an_outcome_of_its_own(system, node, eventually, pool):
    announced = node.worker("announces")
    announced.terminate()
    announced.wait(timeout=20)
    system.publish(*["fail" if number % 25 == 0 else "fine" for number in range(100)])

    node.worker("first", *pool)

    eventually(lambda: system.handled().total() >= 100, 30, node.logs)
    eventually(lambda: system.inside.unacknowledged() == 0, 10, node.logs)
    assert set(system.handled().values()) == {1}
    assert system.outcome() == [["RuntimeError"] * 4, 96]


def test_batch_mates_of_a_crash_are_handled_again_and_nothing_is_said_twice(system, node, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("hold", "fine", "hold", "crash", "fine", "fail")
    eventually(lambda: system.states().total() == 6, 20, node.logs)
    system.release()
    eventually(lambda: system.handled()["hold 2"] == 1, 20, node.logs)
    # The second may have shared the first one's job.
    assert system.states()["active"] in {4, 5}, "those that share the job are all in the slot's hands"
    assert system.handled()["crash 3"] == 0

    system.release()

    # The held one has not been acknowledged when its child dies: it is known in the inbox, and not run again.
    eventually(lambda: system.handled().keys() >= {"fine 4", "fail 5"}, 20, node.logs)
    eventually(lambda: system.inside.unacknowledged() == 0, 10, node.logs)
    assert system.handled() == {"hold 0": 1, "fine 1": 1, "hold 2": 1, "crash 3": 2, "fine 4": 1, "fail 5": 1}
    assert system.outcome() == [["RuntimeError"], 5]


@pytest.mark.long
def test_what_crashes_again_crashes_without_mates(system, node, eventually):
    node.environment["CRASHES"] = "3"
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("hold", "crash", "fine", "fine")
    eventually(system.are_fetched, 20, node.logs)

    system.release()

    eventually(lambda: system.handled()["crash 1"] == 4, 30, node.logs)
    eventually(lambda: system.inside.unacknowledged() == 0, 10, node.logs)
    assert system.handled() == {"hold 0": 1, "crash 1": 4, "fine 2": 1, "fine 3": 1}


def test_a_delivery_that_is_revoked_while_it_waits_is_not_handled(system, node, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("hold", "fine", "fine", "fine")
    eventually(system.are_fetched, 20, node.logs)

    system.bus.app.control.revoke(system.delivery("2"), reply=True)
    system.release()

    eventually(lambda: system.inside.unacknowledged() == 0, 20, node.logs)
    assert system.handled() == {"hold 0": 1, "fine 1": 1, "fine 3": 1}


def test_terminating_one_delivery_does_not_end_its_batch_mates(system, node, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("hold", "fine", "hold", "fine")
    eventually(system.are_fetched, 20, node.logs)
    system.release()
    eventually(lambda: system.handled()["hold 2"] == 1, 20, node.logs)

    system.bus.app.control.revoke(system.delivery("2"), terminate=True, reply=True)

    eventually(lambda: system.handled()["fine 3"] == 1, 20, node.logs)
    eventually(lambda: system.inside.unacknowledged() == 0, 10, node.logs)
    assert system.handled() == {"hold 0": 1, "fine 1": 1, "hold 2": 1, "fine 3": 1}
    assert system.outcome() == [[], 3]


def test_a_worker_fetches_enough_to_fill_its_batches(system, node, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("hold", *["fine"] * 40)

    eventually(system.are_fetched, 20, node.logs)

    system.release()
    eventually(lambda: system.handled().total() == 41, 20, node.logs)


def test_a_delivery_for_later_comes_when_it_is_due(system, node, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")
    system.publish("fine")
    eventually(lambda: system.handled() == {"fine 0": 1}, 20, node.logs)

    document = system.published()["0"] | {"stream_id": "later"}
    system.bus.app.send_task("quick.act", args=(document,), queue="quick", task_id="later", countdown=1)

    eventually(lambda: system.handled() == {"fine 0": 1, "fine later": 1}, 20, node.logs)
