"""What workers and commands log: each fact once, with the ids of its delivery and without secrets."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.processes import Node

IDS = {"event_id", "event_type", "stream_id", "correlation_id", "trace_id", "delivery_id", "agent", "attempt"}

HOUSE = """
import logging
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

agent = Agent("house")
log = logging.getLogger("mine")

@agent.on("input.*", retry=RetryPolicy(max_attempts=2, base=0.1))
def sync(event: Event) -> None:
    log.warning("sync heard %s", event.content.text, extra={"api_key": "abcdef"})
    raise RuntimeError("the disk is full, " + event.content.text)

@agent.on("input.*")
async def later(event: Event) -> None:
    log.warning("async heard %s", event.content.text)
"""

PUBLISH = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
print(publish(TextMessageEvent(stream_id="s", content=TextContent(text="my password is hunter2"))).event.trace_id)
"""

TICK = """
import time
from petiole.tasks.bus import default_bus
default_bus.app.finalize()
task = default_bus.app.tasks["petiole.tick"]
task.apply_async(kwargs={"interval_s": 60.0, "slot": int(time.time() // 60)}, queue="publish").id
"""


def json_lines(node: Node) -> list[dict[str, object]]:
    return [json.loads(line) for line in node.logs().splitlines() if line.startswith("{")]


@pytest.fixture
def house(node):
    node.module("house", HOUSE)
    node.environment.update({"PETIOLE_AGENTS": "house", "PETIOLE_LOG_FORMAT": "json"})
    return node


def test_each_line_of_a_delivery_is_told_once_with_its_ids_and_without_its_secrets(house, eventually):
    house.worker("w", "--pool", "prefork", "-c", "1")

    trace_id = house.run(PUBLISH).strip()

    eventually(lambda: "delivery.dead_lettered" in house.logs() and "async heard" in house.logs(), 30, house.logs)
    lines = [line for line in json_lines(house) if line.get("logger") == "mine" or line.get("delivery_id")]
    assert sorted(str(line["event"]) for line in lines) == [
        "async heard my password is [redacted]",
        "delivery.dead_lettered",
        "delivery.retried",
        "sync heard my password is [redacted]",
        "sync heard my password is [redacted]",
    ]
    assert [line for line in lines if not line.keys() >= IDS] == []
    assert {line["trace_id"] for line in lines} == {trace_id}
    told = {(line["event"], line["agent"], line["attempt"]) for line in lines if "subscription" in line}
    assert {("delivery.retried", "house", 1), ("delivery.dead_lettered", "house", 2)} <= told
    assert "hunter2" not in house.logs()
    assert "abcdef" not in house.logs()
    assert sum("the disk is full" in line for line in house.logs().splitlines()) == 2, "one line each"


def test_a_worker_that_is_ready_writes_nothing_about_a_tick_or_while_it_is_idle(node, inside, eventually):
    node.worker("w")
    before = node.logs()

    node.run(TICK)
    eventually(lambda: "system.tick" in inside.topics(), 20, node.logs)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 2, 5)

    assert node.logs() == before


CONFIGURED = (
    HOUSE
    + """
logging.basicConfig(format="mine says: %(message)s", level="INFO")
"""
)


def test_a_logging_configuration_of_ones_own_stays(house, eventually):
    house.module("house", CONFIGURED)
    house.worker("w")

    house.run(PUBLISH)

    eventually(lambda: "mine says: async heard my password is hunter2" in house.logs(), 20, house.logs)
    assert json_lines(house) == []


def test_a_command_logs_in_the_format_of_workers(node):
    node.environment["PETIOLE_LOG_FORMAT"] = "json"
    code = """
import logging
from petiole.workers.cli import petiole
petiole(["publish", "input.message.received", "--help"], standalone_mode=False)
logging.getLogger("petiole").warning("it.happened", extra={"token": "abcdefghijklmnop", "count": 3})
"""

    written = node.run(f"import sys; sys.stderr = sys.stdout\n{code}")

    (line,) = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert (line["event"], line["level"], line["token"], line["count"]) == ("it.happened", "warning", "[redacted]", 3)
