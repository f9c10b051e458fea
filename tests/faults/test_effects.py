"""Workers killed at random while they handle: nothing is lost, and nothing is said twice.

PETIOLE_FAULTS=full makes the runs as long as `make faults` has them; otherwise they are short.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
EVENTS, KILLS = (10_000, 20) if IS_FULL else (400, 2)

AGENTS = """
import os
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context

runs = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])

def an_agent(name):
    agent = Agent(name)

    @agent.on("input.*")
    def answer(event: Event, context: Context) -> MessageEvent:
        runs.hincrby("runs", context.delivery_id, 1)
        return event.caused(MessageEvent, event_type=f"message.{name}")

    return agent

one, two, three = an_agent("one"), an_agent("two"), an_agent("three")
"""

PUBLISH = f"""
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish_many
publish_many(TextMessageEvent(stream_id=f"s{{n % 50}}", content=TextContent(text=str(n))) for n in range({EVENTS}))
"""


@pytest.mark.timeout(900 if IS_FULL else 180)
def test_killed_workers_lose_nothing_and_say_nothing_twice(node, client, inside, eventually):
    node.module("three_agents", AGENTS)
    node.environment.update(PETIOLE_AGENTS="three_agents", PETIOLE_VISIBILITY_TIMEOUT_S="3")
    workers = [node.worker("first"), node.worker("second")]
    node.run(PUBLISH)

    for kill in range(KILLS):
        time.sleep(random.uniform(0.2, 0.8))  # the moment of the kill is the test
        victim = kill % len(workers)
        workers[victim].kill()
        workers[victim].wait(timeout=10)
        workers[victim] = node.worker(f"replacement-{kill}")

    def emitted() -> Counter[str]:
        return Counter(topic for topic in inside.topics() if topic.startswith("message."))

    eventually(lambda: emitted().total() >= 3 * EVENTS, 600 if IS_FULL else 120, emitted)

    runs = Counter(client.hvals("runs"))
    redelivered = sum(count for times, count in runs.items() if int(times) > 1)
    ids = [each["event_id"] for each in inside.history()]
    print(
        f"published {EVENTS}, deliveries {3 * EVENTS}, kills {KILLS}, handled {sum(runs.values())}, "
        f"run again {redelivered}, said {emitted().total()}, lost {3 * EVENTS - emitted().total()}, "
        f"said twice {len(ids) - len(set(ids))}"
    )
    assert emitted() == {"message.one": EVENTS, "message.two": EVENTS, "message.three": EVENTS}
    assert len(ids) == len(set(ids))
    assert inside.dead_letters() == []
