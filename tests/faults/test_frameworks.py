"""Agents of other frameworks go on after their worker was killed, and each tool has acted once."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.support.polling import wait_until

TEAM = """
import os, signal
from pathlib import Path
from pydantic_ai import Agent as Model
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel
from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.workers.frameworks.pydantic_ai import PetioleDurability

def note(what):
    with open("acted", "a") as acted:
        acted.write(what + "\\n")

def decide(messages, info):
    returned = [part.tool_name for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    note(f"model {len(returned)}")
    if len(returned) == 2 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    missing = [tool for tool in ("reserve", "charge", "send") if tool not in returned]
    return ModelResponse(parts=[ToolCallPart(missing[0], {"order": 7}) if missing else TextPart("Sent.")])

orders = Model(FunctionModel(decide), name="orders", capabilities=[PetioleDurability()])

@orders.tool_plain
def reserve(order: int) -> str:
    note("reserve")
    return "reserved"

@orders.tool_plain
def charge(order: int) -> str:
    note("charge")
    return "charged"

@orders.tool_plain
async def send(order: int) -> str:
    note("send")
    return "sent"

agent = Agent("orders")

@agent.on("input.message.received")
async def handle(event: TextMessageEvent):
    result = await orders.run(event.content.text)
    return event.caused(ResponseReadyEvent, content=FormattedResponse(text=result.output))
"""


@pytest.mark.long  # beside tests/contracts/frameworks/test_pydantic_ai.py, where an attempt fails
def test_a_pydantic_ai_agent_that_is_killed_after_its_second_tool_goes_on_and_each_tool_acts_once(node):
    node.module("orders_team", TEAM)
    node.environment.update(PETIOLE_AGENTS="orders_team", PETIOLE_VISIBILITY_TIMEOUT_S="2")
    worker = node.worker("one")

    node.run("from petiole.workers.agents.input import publish_message; publish_message('Order 7', stream_id='s')")
    wait_until(lambda: worker.poll() is not None, 120, node.logs)
    node.worker("two")

    wait_until(lambda: "orchestrator.response.ready" in node.command("trace", "--stream", "s"), 120, node.logs)
    assert worker.returncode == -signal.SIGKILL
    acted = Counter((node.home / "acted").read_text().split("\n"))
    assert (acted["reserve"], acted["charge"], acted["send"]) == (1, 1, 1)
    assert (acted["model 0"], acted["model 1"], acted["model 2"], acted["model 3"]) == (1, 1, 2, 1)
