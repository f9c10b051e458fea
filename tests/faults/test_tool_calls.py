"""Workers killed in the middle of a tool's call, and between its end and that of its delivery."""

from __future__ import annotations

from typing import Any

import pytest

from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from tests.support.inside import Inside

TOOLS = """
import os, signal
from pathlib import Path
from petiole.workers.tools import tool, tool_calls

HERE = Path(__file__).parent

def die_once():
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

def act():
    with (HERE / "acted").open("a") as file:
        file.write("x")

@tool
def repeated() -> str:
    act()
    die_once()
    return "done"

@tool(on_unfinished="raise")
def told() -> str:
    act()
    die_once()
    return "done"

@tool
def deadly() -> str:
    act()
    os.kill(os.getpid(), signal.SIGKILL)

@tool
def noted() -> str:
    act()
    return "done"

from_json = tool_calls.CallOutcome.from_json

def read_after_death(document):
    die_once()  # what came of the call is kept by now, and its delivery is not settled
    return from_json(document)

if os.environ["DIES"] == "noted":
    tool_calls.CallOutcome.from_json = read_after_death
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("tool", "acted", "end"),
    [("noted", 1, "completed"), ("repeated", 2, "completed"), ("told", 1, "failed")],
)
def test_a_killed_worker_leaves_a_call_that_acts_as_often_as_was_said(
    node: Any, inside: Inside, eventually: Any, *, tool: str, acted: int, end: str
) -> None:
    node.module("deadly_tools", TOOLS)
    node.environment.update(PETIOLE_TOOLS="deadly_tools", PETIOLE_VISIBILITY_TIMEOUT_S="3", DIES=tool)
    first = node.worker("first", "-Q", "tools")
    call = ToolCall(call_id="c-1", tool=tool)
    request = ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=(call,)))

    node.run(f"import json; from tasks import publish; publish(json.loads({request.model_dump_json()!r}))")
    first.wait(timeout=20)
    node.worker("second", "-Q", "tools")

    def said() -> list[str]:
        return [each for each in inside.topics() if each.startswith("tools.")]

    eventually(lambda: said()[-1:] in (["tools.execution.completed"], ["tools.execution.failed"]), 30, node.logs)
    assert said() == ["tools.execution.requested", "tools.execution.started", f"tools.execution.{end}"]
    assert (node.home / "acted").read_text() == "x" * acted


def test_a_call_that_keeps_killing_its_process_has_failed(node: Any, inside: Inside, eventually: Any) -> None:
    node.module("deadly_tools", TOOLS)
    node.environment.update(PETIOLE_TOOLS="deadly_tools", DIES="deadly")
    node.worker("one", "--pool", "prefork", "-c", "1", "-Q", "tools")
    request = ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=(ToolCall(call_id="c-1", tool="deadly"),)))

    node.run(f"import json; from tasks import publish; publish(json.loads({request.model_dump_json()!r}))")

    eventually(lambda: inside.history("tools.execution.failed"), 120, node.logs)
    (failed,) = inside.history("tools.execution.failed")
    assert (failed["content"]["call_id"], failed["correlation_id"]) == ("c-1", request.correlation_id)
    assert [letter.cause for letter in inside.dead_letters()] == ["poison"]
    assert (node.home / "acted").read_text() == "xxx"
