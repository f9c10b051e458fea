"""Deliveries that share a job of a prefork process are still deliveries of their own."""

from __future__ import annotations

from collections import Counter

import pytest

from petiole.events.ids import delivery_ids
from petiole.tasks import EventBus
from tests.support.apps import a_bus
from tests.support.inside import Inside

AGENT = """
import logging
import os
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, RetryPolicy

# A worker that logs each task takes Celery's way, without jobs.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel("WARNING")
store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], socket_timeout=None)
agent = Agent("quick")

@agent.on("message.occupy")
def occupy(event: Event) -> None:
    store.rpush("handled", f"occupy {event.stream_id}")
    store.blpop("free", timeout=60)

@agent.on(
    *(f"message.{kind}" for kind in ("fine", "say", "fail", "last", "crash")), retry=RetryPolicy(max_attempts=1)
)
def act(event: Event) -> MessageEvent | None:
    kind = event.event_type.removeprefix("message.")
    store.rpush("handled", f"{kind} {event.stream_id}")
    if kind == "fail":
        raise RuntimeError("the disk is full")
    if kind == "last":
        store.blpop("go", timeout=60)
    if kind == "crash":
        os._exit(1)
    return event.caused(MessageEvent, event_type="message.said") if kind == "say" else None
"""

WARM_UP = 50


class System:
    """A system with the agent `quick`, whose handlers note what they handle, and last, fail or crash as told."""

    def __init__(self, node, client, inside: Inside, eventually) -> None:
        self.node = node
        self.store = client
        self.inside = inside
        self.eventually = eventually
        node.module("agent_quick", AGENT)
        node.environment.update(PETIOLE_AGENTS="agent_quick", PETIOLE_MAX_DELIVERY_CRASHES="1")

    def work(self, processes: int) -> None:
        """Start a worker, and let it learn that the handler is short, so that deliveries share a job."""
        self.node.worker(
            "first", "--pool", "prefork", "-c", str(processes), "--prefetch-multiplier", "64", "--without-gossip"
        )
        self.publish(*["fine"] * WARM_UP)
        self.eventually(lambda: self.handled().total() == WARM_UP, 30, self.node.logs)
        self.eventually(lambda: self.inside.unacknowledged() == 0, 10, self.node.logs)
        self.store.delete("handled")

    def publish(self, *kinds: str) -> None:
        """Publish one event of each kind at once, in streams numbered from 0."""
        self.node.run(f"""
from petiole.events import MessageEvent
from petiole.tasks import publish_many
publish_many(
    MessageEvent(event_type="message." + kind, stream_id=str(number)) for number, kind in enumerate({kinds!r})
)
""")

    def queue_behind_a_busy_process(self, *kinds: str) -> None:
        """Publish events, and free the worker's only process once the worker has fetched them all."""
        self.publish("occupy")
        self.eventually(lambda: self.handled() == {"occupy 0": 1}, 20, self.node.logs)
        self.publish(*kinds)
        self.eventually(lambda: self.inside.unacknowledged() == 1 + len(kinds), 20, self.node.logs)
        self.store.rpush("free", "it")

    def handled(self) -> Counter[str]:
        """Count how often each `kind stream` was handled."""
        return Counter(map(str, self.store.lrange("handled", 0, -1)))

    def go_on(self) -> None:
        """Let the handler that lasts return."""
        self.store.rpush("go", "on")

    def failures(self) -> list[str]:
        """List the dead letters' types of error."""
        return sorted(str(letter.error_type) for letter in self.inside.dead_letters())

    def await_idleness(self) -> None:
        """Wait until nothing is queued and nothing is unacknowledged."""
        self.eventually(lambda: self.inside.is_idle("quick"), 20, self.node.logs)

    def delivery(self, topic: str) -> str:
        """Name the delivery of the last event of a topic."""
        return delivery_ids(self.inside.history(topic)[-1]["event_id"], ["quick.act"])[0]


@pytest.fixture
def system(node, client, inside, eventually) -> System:
    return System(node, client, inside, eventually)


@pytest.fixture
def bus(clean_broker_url):
    with a_bus(clean_broker_url) as bus:
        yield bus


def test_each_delivery_of_a_backlog_has_an_outcome_of_its_own(system):
    system.work(processes=2)

    system.publish(*["fail" if number % 25 == 0 else "say" for number in range(100)])

    system.eventually(lambda: system.handled().total() >= 100, 30, system.node.logs)
    system.await_idleness()
    assert set(system.handled().values()) == {1}
    assert (system.failures(), system.inside.topics().count("message.said")) == (["RuntimeError"] * 4, 96)


def test_a_killed_process_counts_a_crash_only_for_the_delivery_that_it_had_begun(system):
    """One crash makes a poison message here, so a neighbour that is counted becomes a dead letter."""
    system.work(processes=1)

    system.queue_behind_a_busy_process("fine", "crash", "fine", "fine", "fine")

    system.eventually(lambda: system.handled().keys() >= {"fine 2", "fine 3", "fine 4"}, 20, system.node.logs)
    system.await_idleness()
    assert system.handled() == {"occupy 0": 1, "fine 0": 1, "crash 1": 1, "fine 2": 1, "fine 3": 1, "fine 4": 1}
    assert system.failures() == ["DeliveryCrashed"]


def test_ended_deliveries_are_acknowledged_while_a_later_one_of_their_job_runs(system):
    system.work(processes=1)

    system.queue_behind_a_busy_process("fine", "fine", "last", "fine")

    system.eventually(lambda: system.handled()["last 2"] == 1, 20, system.node.logs)
    system.eventually(lambda: system.inside.unacknowledged() == 2, 10, system.node.logs)
    assert system.handled()["fine 3"] == 0, "the only process is busy"
    system.go_on()
    system.await_idleness()
    assert system.handled() == {"occupy 0": 1, "fine 0": 1, "fine 1": 1, "last 2": 1, "fine 3": 1}


def test_a_free_process_takes_the_deliveries_behind_one_that_lasts(system):
    system.work(processes=2)

    system.publish("last", *["fine"] * 9)

    system.eventually(lambda: system.handled().total() == 10, 20, system.node.logs)
    system.eventually(lambda: system.inside.unacknowledged() == 1, 10, system.node.logs)
    system.go_on()
    system.await_idleness()
    assert set(system.handled().values()) == {1}


def test_revoking_a_delivery_that_waits_or_runs_ends_no_other_of_its_job(system, bus: EventBus):
    system.work(processes=1)
    system.publish("occupy")
    system.eventually(lambda: system.handled() == {"occupy 0": 1}, 20, system.node.logs)
    system.publish("fine", "say", "fine")
    system.eventually(lambda: system.inside.unacknowledged() == 4, 20, system.node.logs)

    revoked = system.delivery("message.say")
    system.eventually(lambda: bus.app.control.revoke(revoked, reply=True), 20, system.node.logs)
    system.store.rpush("free", "it")

    system.await_idleness()
    assert system.handled() == {"occupy 0": 1, "fine 0": 1, "fine 2": 1}

    system.store.delete("handled")
    system.queue_behind_a_busy_process("fine", "last", "say")
    system.eventually(lambda: system.handled()["last 1"] == 1, 20, system.node.logs)

    terminated = system.delivery("message.last")
    system.eventually(lambda: bus.app.control.revoke(terminated, terminate=True, reply=True), 20, system.node.logs)

    system.eventually(lambda: system.handled()["say 2"] == 1, 20, system.node.logs)
    system.await_idleness()
    assert system.handled() == {"occupy 0": 1, "fine 0": 1, "last 1": 1, "say 2": 1}
    assert system.failures() == []
