"""Tasks of MCP, for the client of the official package, which leaves the extension to its users."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, Request, Result, TextContent

from petiole.workers.gateways.mcp_tasks import EXTENSION


class Accepting(ClientExtension):
    """A client that takes tasks."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def resolve(_: CreatedTask, __: ClaimContext) -> CallToolResult:
            raise AssertionError("each test polls")

        return [ResultClaim(result_type="task", model=CreatedTask, resolve=resolve)]


class CreatedTask(Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int
    poll_interval_ms: int


class TaskRequest(Request[dict[str, Any], str]):
    name_param = "taskId"


class TaskState(Result, extra="allow"):
    status: str = ""
    input_requests: dict[str, Any] = {}  # noqa: RUF012 - a field
    result: dict[str, Any] = {}  # noqa: RUF012 - as above


async def call_for_task(client: Client, tool: str, **arguments: Any) -> str:
    created = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(created, CreatedTask), created
    return created.task_id


async def of_task(client: Client, method: str, task_id: str, **params: Any) -> TaskState:
    request = TaskRequest(method=f"tasks/{method}", params={"taskId": task_id} | params)
    return await client.session.send_request(request, TaskState)


async def when(client: Client, task_id: str, status: str) -> TaskState:
    deadline = time.monotonic() + 60
    while (state := await of_task(client, "get", task_id)).status != status:
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.1)
    return state


async def follow_call(url: str, text: str, results: list[str]) -> None:
    """Ask by MCP, and poll the task until it has ended, also when the connection is lost; gives its result."""
    tasks, deadline = list[str](), time.monotonic() + 200
    while not results and time.monotonic() < deadline:
        try:
            async with Client(url, extensions=[Accepting()]) as client:
                results += await _ask_or_poll(client, text, tasks)
        except* (MCPError, httpx2.TransportError):
            pass  # the connection was lost
        await asyncio.sleep(0.1)


async def _ask_or_poll(client: Client, text: str, tasks: list[str]) -> list[str]:
    """Ask once, then poll; gives the result if there is one."""
    if not tasks:
        message = {"stream_id": "mcp", "text": text, "message_id": "m"}
        answer = await client.session.call_tool("petiole_ask", message, allow_claimed=True)
        if isinstance(answer, CallToolResult):
            return [part.text for part in answer.content if isinstance(part, TextContent)]
        assert isinstance(answer, CreatedTask)
        tasks.append(answer.task_id)
    state = await of_task(client, "get", tasks[0])
    return [part["text"] for part in state.result["content"]] if state.status == "completed" else []
