"""How many deliveries a worker holds: its prefetch limit, and beyond it what short handlers end in 50 ms."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.inside import Inside

AGENT = """
import logging
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

# A worker that logs each task takes Celery's way.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel("WARNING")
store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], socket_timeout=None)
agent = Agent("quick")

@agent.on("message.short", "message.long")
def act(event: Event) -> None:
    store.rpush("handled", event.stream_id)
    if event.event_type == "message.long":
        store.blpop("free", timeout=60)
"""

PREFETCHED = 4


class System:
    """A worker with one slot that prefetches 4 deliveries, and notes the streams of the events that it handles."""

    def __init__(self, node, client, inside: Inside, eventually) -> None:
        self.node = node
        self.store = client
        self.inside = inside
        self.eventually = eventually
        node.module("agent_quick", AGENT)
        node.environment["PETIOLE_AGENTS"] = "agent_quick"

    def publish(self, short: int, long: int = 0, short_after: int = 0) -> None:
        """Publish short, long, and again short events at once, in streams numbered from 0."""
        self.node.run(f"""
from petiole.events import MessageEvent
from petiole.tasks import publish_many
kinds = ["short"] * {short} + ["long"] * {long} + ["short"] * {short_after}
publish_many(MessageEvent(event_type="message." + kind, stream_id=str(n)) for n, kind in enumerate(kinds))
""")

    def work(self, pool: str, prefetch: int = PREFETCHED) -> None:
        """Start the worker."""
        self.node.worker("first", "--pool", pool, "-c", "1", "--prefetch-multiplier", str(prefetch))

    def handled(self) -> Counter[str]:
        """Count how often the event of each stream was handled."""
        return Counter(map(str, self.store.lrange("handled", 0, -1)))


@pytest.fixture
def system(node, client, inside, eventually) -> System:
    return System(node, client, inside, eventually)


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.long) for pool in ("solo", "threads"))]
)
def test_what_waits_behind_a_long_handler_returns_to_its_queue(system, pool):
    system.work(pool)

    system.publish(short=400, long=1, short_after=200)

    system.eventually(lambda: system.handled().total() == 401, 30, system.node.logs)
    system.eventually(lambda: system.inside.unacknowledged() == PREFETCHED, 20, system.node.logs)
    system.eventually(lambda: system.inside.queue_depth("quick") == 201 - PREFETCHED, 20, system.node.logs)
    system.store.rpush("free", "it")
    system.eventually(lambda: system.inside.is_idle("quick"), 30, system.node.logs)
    assert set(system.handled().values()) == {1}
    assert system.handled().total() == 601


def test_a_worker_of_long_handlers_holds_no_more_than_it_prefetches(system):
    system.work("prefork")

    system.publish(short=0, long=20)

    system.eventually(lambda: system.inside.unacknowledged() == PREFETCHED, 30, system.node.logs)
    for number in range(1, 4):
        system.store.rpush("free", "it")
        system.eventually(lambda number=number: system.handled().total() == 1 + number, 30, system.node.logs)
        system.eventually(lambda: system.inside.unacknowledged() == PREFETCHED, 20, system.node.logs)


def test_a_thread_that_has_ended_a_delivery_makes_the_worker_fetch_the_next(system):
    """Without it, the worker fetches when a timer wakes it, and handles a few deliveries a second."""
    system.work("threads", prefetch=1)

    system.publish(short=300)

    system.eventually(lambda: system.handled().total() == 300, 45, system.node.logs)
