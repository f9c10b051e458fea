"""Ordered streams under random failures, with workers killed at random: every stream is told in order.

Told is what left: the event that a handler's success publishes. It is missing only where a dead letter holds its event.
PETIOLE_FAULTS=full makes the run as large as `make faults` has it; otherwise it is short.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

import pytest

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
STREAMS, EACH, KILLS = (1_000, 100, 10) if IS_FULL else (40, 15, 1)
LIMIT_S = 2_400 if IS_FULL else 100

AGENT = """
import os, random, threading
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent

seen = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], decode_responses=True)
agent = Agent("teller")

def is_alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True

@agent.on("input.*", ordered=True)
def tell(event: Event) -> MessageEvent:
    mine = f"{os.getpid()} {threading.get_ident()} {event.content.text}"
    holder = seen.set("busy:" + event.stream_id, mine, nx=True, get=True)
    # A worker that was killed leaves its sign hanging.
    if holder is not None and is_alive(holder.split()[0]):
        # A worker that is held up for longer than the visibility timeout has its delivery run beside it, once more.
        is_same = holder.split()[2] == event.content.text
        seen.rpush("run beside itself" if is_same else "overlaps", f"{event.stream_id}: {holder}; {mine}")
    seen.set("busy:" + event.stream_id, mine)
    try:
        if event.stream_id == "failing" and not seen.exists("others were told"):
            raise RuntimeError("fails as long as the others are not through")
        if random.random() < 0.02:
            raise RuntimeError("fails by chance")
        told = {"parameters": {"text": event.content.text}}
        return event.caused(MessageEvent, event_type="message.told", content=told)
    finally:
        seen.delete("busy:" + event.stream_id)
"""

PUBLISHER = f"""
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish_many

streams = ["failing", *(f"stream-{{number}}" for number in range({STREAMS} - 1))]
for number in range({EACH}):
    publish_many(
        TextMessageEvent(stream_id=stream, content=TextContent(text=str(number))) for stream in streams
    )
"""


@pytest.mark.long
@pytest.mark.timeout(LIMIT_S + 100)
def test_every_stream_is_told_in_order_whoever_dies_and_whatever_fails(node, client, inside, eventually, capsys):
    node.module("teller", AGENT)
    node.module("publisher", PUBLISHER)
    node.environment.update(
        PETIOLE_AGENTS="teller", PETIOLE_VISIBILITY_TIMEOUT_S="3", PETIOLE_MAX_HISTORY_EVENTS="1000000"
    )
    workers = [node.worker(name, "--pool", "threads", "-c", "2") for name in ("first", "second")]
    began = time.monotonic()
    publisher = node.start("publisher")

    for kill in range(KILLS):
        time.sleep(random.uniform(0.5, 1.0) * (10 if IS_FULL else 1))  # the moment of the kill is the test
        victim = kill % len(workers)
        workers[victim].kill()
        workers[victim].wait(timeout=10)
        workers[victim] = node.worker(f"replacement-{kill}", "--pool", "threads", "-c", "2")

    def waiting_streams() -> set[str]:
        # There are too many to list them again and again before most are through.
        return {"many"} if sum(inside.ordered_waiting().values()) > 2 * EACH else inside.ordered_active()

    assert publisher.wait(timeout=LIMIT_S) == 0, node.logs()
    eventually(lambda: waiting_streams() <= {"failing"}, LIMIT_S, lambda: (waiting_streams(), node.logs()[-3000:]))
    client.set("others were told", 1)
    eventually(lambda: not waiting_streams(), LIMIT_S, lambda: (waiting_streams(), node.logs()[-3000:]))
    took_s = time.monotonic() - began

    told = _by_stream(inside.history("message.told"))
    given_up = _by_stream(letter.document for letter in inside.dead_letters())
    published = {stream: list(range(EACH)) for stream in told.keys() | given_up.keys()}
    with capsys.disabled():
        count, letters = (sum(map(len, each.values())) for each in (told, given_up))
        print(
            f"\nstreams {len(published)}, events {STREAMS * EACH}, workers killed {KILLS}: told {count} in order, "
            f"dead letters {letters}, overlaps {client.llen('overlaps')}, "
            f"run beside itself {client.llen('run beside itself')}, {took_s:.0f} s"
        )
    assert len(published) == STREAMS
    assert [stream for stream, numbers in told.items() if not _is_increasing(numbers)] == []
    assert {stream: sorted(told[stream] + given_up[stream]) for stream in published} == published
    assert client.lrange("overlaps", 0, -1) == []


def _by_stream(documents) -> Mapping[str, list[int]]:
    """List the numbers of events by stream, in the order in which they come."""
    by_stream = defaultdict(list)
    for document in documents:
        content = document["content"]
        by_stream[document["stream_id"]].append(int(content.get("parameters", content)["text"]))
    return by_stream


def _is_increasing(numbers: list[int]) -> bool:
    return all(before < after for before, after in pairwise(numbers))
