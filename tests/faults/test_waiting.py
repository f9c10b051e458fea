"""The waiting room holds many: what waits there costs no worker anything. PETIOLE_FAULTS=full: 50,000 of them."""

from __future__ import annotations

import os
import time

import psutil
import pytest

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
WAITING = 50_000 if IS_FULL else 1_000
FIRST = max(300, WAITING // 10)
LIMIT_S = 900 if IS_FULL else 60

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("patient")

@agent.on("message.fails", retry=RetryPolicy(max_attempts=2, base=3600, cap=3600))
def fail(event: Event) -> None:
    raise RuntimeError("not within the hour")

@agent.on("message.fine")
def answer(event: Event) -> None:
    handled.rpush("fine", event.event_id)
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish_many
publish_many(MessageEvent(event_type={topic!r}, stream_id="s", content={{}}) for number in range({count}))
"""


@pytest.mark.long
@pytest.mark.timeout(LIMIT_S + 60)
def test_deliveries_that_wait_for_a_retry_cost_a_worker_no_memory(node, client, inside, eventually, capsys):
    node.module("agent_patient", AGENT)
    node.environment.update(PETIOLE_AGENTS="agent_patient")
    worker = psutil.Process(node.worker("one").pid)

    # Whatever a worker keeps from its first deliveries on, and does not collect before there is more of it, is there
    # before it is measured: errors and their frames, of some thousand deliveries.
    node.run(PUBLISH.format(topic="message.fails", count=FIRST))
    eventually(lambda: inside.delayed() == FIRST, LIMIT_S, node.logs)
    idle = worker.memory_info().rss
    node.run(PUBLISH.format(topic="message.fails", count=WAITING))
    eventually(lambda: inside.delayed() == WAITING + FIRST, LIMIT_S, node.logs)
    full = worker.memory_info().rss

    began = time.monotonic()
    node.run(PUBLISH.format(topic="message.fine", count=1))
    eventually(lambda: client.llen("fine") == 1, 10, node.logs)
    with capsys.disabled():
        print(
            f"\n{WAITING} deliveries wait: worker {idle / 2**20:.0f} MiB idle, {full / 2**20:.0f} MiB with them "
            f"({full / idle - 1:+.1%}); another event is handled meanwhile"
        )
    assert full <= 1.1 * idle
    assert time.monotonic() - began < 10
