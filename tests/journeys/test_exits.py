"""However a handler ends, its delivery has an outcome, which tells how it ended; and the worker goes on."""

from __future__ import annotations

import os
import signal

import pytest

from petiole.events import MessageEvent
from petiole.events.dead_letter import DeadLetter
from tests.support.apps import a_bus
from tests.support.endings import ASYNC_ENDS, ENDS, MODULE, NOT_RETRIED
from tests.support.inside import Inside
from tests.support.polling import wait_until

pytest.importorskip("gevent", reason="gevent is not installed: make dev")

AGENT = """
import asyncio
import logging
import os
import sys
import time

import redis
from endings import ENDS
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel("WARNING" if os.environ["WAY"] == "direct" else "INFO")
store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("actor")
RETRY = RetryPolicy(max_attempts=2, base=0.01)


@agent.on(*(f"message.{kind}" for kind in ENDS), retry=RETRY, ordered=True)
def act(event: Event) -> None:
    ENDS[event.event_type.removeprefix("message.")]()


@agent.on(*(f"message.async_{kind}" for kind in ENDS), retry=RETRY)
async def act_async(event: Event) -> None:
    await asyncio.sleep(0)
    ENDS[event.event_type.removeprefix("message.async_")]()


@agent.on("message.task_exits", retry=RETRY)
async def start_task(event: Event) -> None:
    async def end():
        sys.exit(1)

    await asyncio.create_task(end())


@agent.on("message.hold")
def hold(event: Event) -> None:
    if store.rpush("held", os.getpid()) == 1:
        try:
            time.sleep(60)
        finally:
            raise RuntimeError("the connection is closed")


@agent.on("message.plain", ordered=True)
def plain(event: Event) -> None:
    store.incr("plain")


@agent.on("message.async_plain")
async def plain_async(event: Event) -> None:
    store.incr("plain")
"""

POOLS = {
    "solo": ("--pool", "solo"),
    "threads": ("--pool", "threads", "-c", "2"),
    "gevent": ("--pool", "gevent", "-c", "4"),
    "prefork": ("--pool", "prefork", "-c", "1"),
}


def start_worker(node, pool: str):
    """Start a worker; not as `node.worker` does, for Celery patches for gevent by the first pool that is named."""
    options = ("-n", "first@%h", "-l", "INFO", "--without-mingle")
    process = node.start("celery", "-A", "workers", "worker", *POOLS[pool], *options)
    wait_until(lambda: "ready." in node.logs(), 30, node.logs)
    return process


@pytest.fixture
def system(node):
    node.module("endings", MODULE)
    node.module("agent_actor", AGENT)
    node.environment.update(PETIOLE_AGENTS="agent_actor", WAY="direct")
    return node


@pytest.fixture
def publish(clean_broker_url):
    with a_bus(clean_broker_url) as bus:
        yield lambda *kinds: bus.publish_many(
            [MessageEvent(event_type=f"message.{kind}", stream_id="one") for kind in kinds]
        )


@pytest.mark.parametrize("way", ["direct", pytest.param("celery", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "pool", ["prefork", "threads", *(pytest.param(pool, marks=pytest.mark.long) for pool in ("solo", "gevent"))]
)
def test_whatever_ends_a_handler_is_a_failed_attempt_with_its_name(system, publish, client, eventually, pool, way):  # noqa: PLR0917
    inside = Inside(system.environment["PETIOLE_BROKER_URL"])
    system.environment["WAY"] = way
    worker = start_worker(system, pool)
    expected = ENDS | ASYNC_ENDS

    publish(*expected, "plain", "async_plain")

    eventually(lambda: len(inside.dead_letters()) == len(expected), 60, lambda: (_kinds(inside), system.logs()[-3000:]))
    eventually(lambda: client.get("plain") == "2", 20, system.logs)
    eventually(lambda: inside.is_idle("actor"), 20, system.logs)
    letters = {kind: letter for letter in inside.dead_letters() for kind in [_kind(letter)]}
    assert {kind: letter.error_type for kind, letter in letters.items()} == expected
    assert {kind: len(letter.attempts) for kind, letter in letters.items()} == {
        kind: 1 if kind in NOT_RETRIED else 2 for kind in expected
    }
    assert all(kind in NOT_RETRIED or letter.traceback for kind, letter in letters.items())
    assert "b\\udcff" in letters["exit"].error
    assert len(letters["huge"].model_dump_json()) < 60_000
    assert worker.poll() is None
    assert inside.leaks() == []
    eventually(lambda: system.logs().count("delivery.dead_lettered") >= len(expected), 20, system.logs)
    assert system.logs().count("delivery.dead_lettered") == len(expected), "each is told once"
    assert "exited with" not in system.logs(), "no process ended"


def _kind(letter: DeadLetter) -> str:
    return str(letter.event_attribute("event_type")).removeprefix("message.")


def _kinds(inside) -> list[str]:
    return sorted(map(_kind, inside.dead_letters()))


def test_a_process_that_is_ended_during_a_handler_is_no_failed_attempt(system, publish, inside, client, eventually):
    start_worker(system, "prefork")
    publish("hold")
    eventually(lambda: client.llen("held") == 1, 20, system.logs)

    os.kill(int(client.lindex("held", 0)), signal.SIGTERM)

    eventually(lambda: client.llen("held") == 2, 30, system.logs)
    eventually(lambda: inside.is_idle("actor"), 20, system.logs)
    assert inside.dead_letters() == []
    assert "delivery.retried" not in system.logs()
