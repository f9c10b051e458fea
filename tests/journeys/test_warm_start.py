"""A worker whose agents have started is warm: the first message loads no library and connects to no tool server."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.support import endpoint
from tests.support.polling import wait_until

SPY = """
import os, sys
from pathlib import Path
from petiole.tasks import Agent

agent = Agent("zz_spy")
started = set()

@agent.on_start
def note():
    started.update(sys.modules)
    Path("warm").write_text(Path("tool_server_starts").read_text())

@agent.on("output.message.sent")
def report(event):
    loaded = sorted(name for name in set(sys.modules) - started if not name.startswith("petiole."))
    Path("report.tmp").write_text("\\n".join([event.content.text, *loaded]))
    Path("report.tmp").rename("report")
"""

TOOL_SERVER = """
from mcp.server import MCPServer

with open("tool_server_starts", "a") as starts:
    starts.write("x")
server = MCPServer("shop")

@server.tool()
def order(article: str) -> str:
    "Order something."
    return f"{article} is ordered"

server.run()
"""

PUBLISH = "from petiole.workers.agents.input import publish_message; publish_message('Order tea', stream_id='s')"

AGENTS = [f"petiole.workers.agents.{name}" for name in ("input", "orchestrator", "memory", "tools", "llm", "output")]


def answer(question: dict[str, Any]) -> endpoint.Reply:
    if question["messages"][-1]["role"] == "tool":
        return [endpoint.a_chunk("Done."), endpoint.a_chunk(finish_reason="stop")]
    name = next(tool["function"]["name"] for tool in question["tools"] if "order" in tool["function"]["name"])
    return [endpoint.a_call(0, name, '{"article": "tea"}'), endpoint.a_chunk(finish_reason="tool_calls")]


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.long)])
def test_the_first_message_after_the_start_loads_and_connects_nothing(node, pool):
    (node.home / "shop.py").write_text(TOOL_SERVER)
    servers = {"mcpServers": {"shop": {"command": sys.executable, "args": ["shop.py"], "cwd": str(node.home)}}}
    (node.home / "servers.json").write_text(json.dumps(servers))
    node.module("zz_spy", SPY)
    with endpoint.serving(answer) as served:
        node.environment.update(
            PETIOLE_AGENTS=",".join([*AGENTS, "zz_spy"]),
            PETIOLE_LLM="openai",
            PETIOLE_LLM_BASE_URL=served.base_url,
            PETIOLE_LLM_API_KEY="k",
            PETIOLE_LLM_MODEL="m",
            PETIOLE_MCP_SERVERS="servers.json",
            PETIOLE_RETRIEVAL="semantic",
        )
        options = ("--pool", pool, "-c", "1", "-l", "INFO", "--without-mingle")
        node.start("celery", "-A", "workers", "worker", *options, forked=False)
        wait_until((node.home / "warm").exists, 120, node.logs)
        node.run(
            "from petiole.workers.agents.input import publish_message; publish_message('Order tea', stream_id='s')"
        )
        wait_until((node.home / "report").exists, 120, node.logs)

    text, *loaded = (node.home / "report").read_text().split("\n")
    assert text == "Done."
    assert (node.home / "tool_server_starts").read_text() == (node.home / "warm").read_text()
    assert loaded == []
