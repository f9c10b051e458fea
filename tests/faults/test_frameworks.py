"""Agents of other frameworks go on after their worker was killed, and each tool has acted once."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.support.polling import wait_until

PYDANTIC_AI = """
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


OPENAI_AGENTS = """
import os, signal, sys
from pathlib import Path
from agents import Agent as Model, ModelResponse, RunConfig, Usage, function_tool
from agents import Model as LanguageModel
from agents.mcp import MCPServerStdio
from agents.testing import assistant_message, function_call
from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.workers.frameworks.openai_agents import run_agent

def note(what):
    with open("acted", "a") as acted:
        acted.write(what + "\\n")

class Scripted(LanguageModel):
    async def get_response(self, system_instructions, input, *arguments, **options):
        calls = {each["call_id"]: each["name"] for each in input if each.get("type") == "function_call"}
        returned = [calls[each["call_id"]] for each in input if each.get("type") == "function_call_output"]
        note(f"model {len(returned)}")
        if len(returned) == 2 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        missing = [tool for tool in ("reserve", "charge", "send") if tool not in returned]
        call = function_call(missing[0], {"order": 7}, call_id=missing[0]) if missing else assistant_message("Sent.")
        return ModelResponse(output=[call], usage=Usage(), response_id=None)

    def stream_response(self, *arguments, **options):
        raise NotImplementedError

@function_tool
def reserve(order: int) -> str:
    note("reserve")
    return "reserved"

@function_tool
async def send(order: int) -> str:
    note("send")
    return "sent"

orders = Model(name="orders", model=Scripted(), tools=[reserve, send])
agent = Agent("orders")

@agent.on("input.message.received")
async def handle(event: TextMessageEvent):
    async with MCPServerStdio({"command": sys.executable, "args": ["bank.py"]}) as bank:
        model = orders.clone(mcp_servers=[bank])
        result = await run_agent(model, event.content.text, run_config=RunConfig(tracing_disabled=True))
    return event.caused(ResponseReadyEvent, content=FormattedResponse(text=result.final_output))
"""

BANK = """
from mcp.server import MCPServer

bank = MCPServer("bank")

@bank.tool()
def charge(order: int) -> str:
    "Charge an order."
    with open("acted", "a") as acted:
        acted.write("charge\\n")
    return "charged"

bank.run()
"""


@pytest.mark.long  # beside tests/contracts/frameworks/, where an attempt fails
@pytest.mark.parametrize("team", [PYDANTIC_AI, OPENAI_AGENTS], ids=["Pydantic AI", "OpenAI Agents SDK"])
def test_an_agent_that_is_killed_after_its_second_tool_goes_on_and_each_tool_acts_once(node, team):
    (node.home / "bank.py").write_text(BANK)
    node.module("orders_team", team)
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
