"""An idle worker: what it costs its broker, and that it still acts in time."""

from __future__ import annotations

import time

import pytest

WINDOW_S = 6.0

MAX_COMMANDS_PER_S = 30
# About 15, of which a worker sends 10; the others run inside scripts. It was 345.

AGENTS = """
import time
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

flaky = Agent("flaky")

@flaky.on("input.*", retry=RetryPolicy(max_attempts=8, base=0.05, factor=1))
def fail(event: Event) -> None:
    with open("attempts", "a") as attempts:
        attempts.write(f"{time.time()}\\n")
    time.sleep(0.1)
    raise OSError("again")
"""

PUBLISH = """
import time
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
print(time.time())
publish(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")), delay={delay_s})
print(time.time())
"""


def commands(client) -> dict[str, int]:
    """Tell how often the server has run each command, in scripts or not."""
    return {name.removeprefix("cmdstat_"): of["calls"] for name, of in client.info("commandstats").items()}


def attempts(node) -> list[float]:
    kept = node.home / "attempts"
    return [float(line) for line in kept.read_text().split()] if kept.exists() else []


def test_an_idle_worker_of_all_agents_sends_a_few_commands_a_second(node, client, eventually):
    node.worker("w", "--pool", "prefork", "-c", "2")
    # Its start is over: the lifecycle events are published and handled.
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began >= 2, 5)

    before, began = commands(client), time.monotonic()
    eventually(lambda: time.monotonic() - began >= WINDOW_S, WINDOW_S + 5)
    took_s, after = time.monotonic() - began, commands(client)

    sent = {name: count - before.get(name, 0) for name, count in after.items()}
    assert sum(sent.values()) <= MAX_COMMANDS_PER_S * took_s, sent


@pytest.mark.parametrize("pool", [pytest.param("solo", marks=pytest.mark.long), "prefork"])
def test_retries_of_a_worker_that_was_idle_are_sent_when_they_are_due(node, eventually, pool):
    node.module("house", AGENTS)
    node.environment["PETIOLE_AGENTS"] = "house"
    node.worker("w", "--pool", pool, "-c", "1")

    began, ended = map(float, node.run(PUBLISH.format(delay_s=1.5)).split())
    eventually(lambda: len(attempts(node)) == 8, 30, node.logs)

    first, *_, last = attempts(node)
    assert began + 1.5 <= first < ended + 1.5 + 0.5, "it looks for the next due message in time"
    assert last - first < 3.0, "a busy worker looks every 0.1 s"
