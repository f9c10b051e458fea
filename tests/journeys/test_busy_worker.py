"""A prefork worker that is told to end while its processes are late to take what was sent to them."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest

AGENT = """
import logging
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

if {is_direct}:
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel("WARNING")
store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("clerk")

@agent.on("message.note")
def note(event: Event) -> None:
    store.rpush("handled", event.stream_id)
"""


@pytest.mark.parametrize("is_direct", [True, pytest.param(False, marks=pytest.mark.long)], ids=["direct", "celery"])
@pytest.mark.parametrize("turn", [1, *(pytest.param(turn, marks=pytest.mark.long) for turn in range(2, 6))])
def test_what_was_sent_to_a_process_when_its_worker_is_told_to_end_is_handled_once(  # noqa: PLR0917 - fixtures
    is_direct, turn, node, client, inside, eventually
):
    node.module("agent_clerk", AGENT.format(is_direct=is_direct))
    node.environment.update(PETIOLE_AGENTS="agent_clerk")
    worker = node.worker("first", "--pool", "prefork", "-c", "2")
    main = psutil.Process(worker.pid)
    slots = main.children()
    for each in slots:
        each.suspend()
    written = main.io_counters().write_count
    node.run("""
from petiole.events import MessageEvent
from petiole.tasks import publish_many
publish_many(MessageEvent(event_type="message.note", stream_id=str(number)) for number in range(20))
""")
    eventually(lambda: inside.unacknowledged() >= len(slots), 30, node.logs)
    eventually(lambda: main.io_counters().write_count > written, 30, node.logs)

    worker.terminate()
    eventually(lambda: "Warm shutdown" in node.logs(), 30, node.logs)
    for each in slots:
        each.resume()
    # An idle machine needs less than 25 s; a worker that waits for what its processes do not send needs 44 s.
    assert worker.wait(timeout=40) == 0

    node.worker("second")
    eventually(lambda: inside.is_idle("clerk"), 60, node.logs)
    assert Counter(map(str, client.lrange("handled", 0, -1))) == dict.fromkeys(map(str, range(20)), 1)
