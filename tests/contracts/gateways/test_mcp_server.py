"""MCP, with the client of the official package: the agents are tools, and their events are resources."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import Request, ResourceLink, TextContent, TextResourceContents

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.events.content import Value
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import tools
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.mcp_tasks import EXTENSION
from petiole.workers.tools import ToolRegistry, approvals
from petiole.workers.tools.mcp import configured_servers
from tests.contracts.channels.answers import serving
from tests.journeys import odd_mcp_server
from tests.support.apps import serve_tools
from tests.support.gateways import ordering_team
from tests.support.mcp_tasks import Accepting, TaskState, call_for_task, of_task, when
from tests.support.polling import wait_until


@pytest.fixture
def served_team(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, EventTestHarness, list[str]]]:
    with (
        ordering_team(monkeypatch) as (team, ordered),
        serving(create_application(team.bus, trusts_loopback=True)) as url,
    ):
        yield f"{url}/mcp", team, ordered


def with_client(url: str, act: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with Client(url, **options) as client:
            await act(client)

    asyncio.run(run())


async def call(client: Client, tool: str, **arguments: Any) -> tuple[str, bool]:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text, bool(result.is_error)


async def read(client: Client, uri: str) -> list[dict[str, Any]]:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    found: list[dict[str, Any]] = json.loads(content.text)
    return found


def grant_when_asked(team: EventTestHarness) -> threading.Thread:
    def grant() -> None:
        wait_until(lambda: any(approvals.find_approvals(bus=team.bus)), 30)
        approvals.grant(next(approvals.find_approvals(bus=team.bus)).id, by="ada", bus=team.bus)

    thread = threading.Thread(target=grant)
    thread.start()
    return thread


def test_a_message_is_answered_once_and_its_events_are_read_as_a_resource(served_team):
    url, team, ordered = served_team

    async def act(client: Client) -> None:
        answers = [await call(client, "petiole_ask", stream_id="a/b", text="Order tea", message_id="1") for _ in "12"]

        assert answers == [("I order tea. \nDone: tea is ordered", False)] * 2
        events = await read(client, "petiole://streams/a%2Fb/events")
        assert [event["event_type"] for event in events].count("input.message.received") == 1
        flow = await read(client, f"petiole://flows/{events[-1]['correlation_id']}/events")
        assert "orchestrator.response.ready" in [event["event_type"] for event in flow]
        with pytest.raises(MCPError, match="no resource"):
            await client.read_resource("petiole://secrets")

    granting = grant_when_asked(team)
    with_client(url, act)
    granting.join()
    assert ordered == ["tea"]


def test_files_of_an_answer_are_links_and_data_is_json() -> None:
    clerk = Agent("clerk")
    file: dict[str, Value] = {"url": "https://example.com/b.pdf", "filename": "b.pdf", "media_type": "application/pdf"}

    @clerk.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        content = FormattedResponse(text="Your bill", parts=(file, {"data": {"total": 42}}))
        return event.caused(ResponseReadyEvent, content=content)

    async def act(client: Client) -> None:
        asked = {"stream_id": "s", "text": "The bill, please", "message_id": "m-1"}
        text, bill, total = (await client.call_tool("petiole_ask", asked)).content

        assert isinstance(text, TextContent)
        assert isinstance(bill, ResourceLink)
        assert isinstance(total, TextContent)
        assert (text.text, json.loads(total.text)) == ("Your bill", {"total": 42})
        assert (bill.uri, bill.name, bill.mime_type) == tuple(file.values())

    with EventTestHarness([clerk]) as team, serving(create_application(team.bus, trusts_loopback=True)) as url:
        with_client(f"{url}/mcp", act)


def test_a_tool_of_the_agents_runs_with_its_approval_and_its_errors_are_results(served_team):
    url, team, ordered = served_team

    async def act(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"petiole_ask", "petiole_publish", "petiole_request", "order"} == set(tools)
        assert tools["order"].input_schema["required"] == ["article"]
        assert await call(client, "order", article="cake") == ("cake is ordered", False)
        text, is_error = await call(client, "order", colour=1)
        assert ("article" in text, is_error) == (True, True)

    granting = grant_when_asked(team)
    with_client(url, act)
    granting.join()
    assert ordered == ["cake"]


def test_an_odd_tool_hides_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, registry = tmp_path / "mcp.json", ToolRegistry()
    path.write_text(json.dumps({"mcpServers": {"odd": {"command": sys.executable, "args": [odd_mcp_server.__file__]}}}))
    monkeypatch.setenv("PETIOLE_MCP_SERVERS", str(path))
    for source in configured_servers():
        registry.add_source(source)
    serve_tools(registry, monkeypatch)
    monkeypatch.setattr("petiole.workers.gateways.mcp_server.installed_tools", lambda: registry)

    async def act(client: Client) -> None:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed >= {"petiole_ask", *(f"odd.{name}" for name in odd_mcp_server.NAMES)}
        assert await call(client, "odd.schema null") == ("fine", False)

    with EventTestHarness([tools.agent]) as team, serving(create_application(team.bus, trusts_loopback=True)) as url:
        with_client(f"{url}/mcp", act)
    registry.close()


def test_events_of_ones_own_are_published_and_those_of_the_agents_are_not(served_team):
    url, _, _ = served_team

    async def act(client: Client) -> None:
        event = {"event_type": "message.order_placed", "stream_id": "s", "content": {"parameters": {"order": 7}}}
        event_id, is_error = await call(client, "petiole_publish", **event)
        assert not is_error, event_id
        (recorded,) = await read(client, "petiole://streams/s/events")
        assert (recorded["event_id"], recorded["content"]) == (event_id, event["content"])
        for topic in ("tools.approval.granted", "error.reported", "system.stopped"):
            text, is_error = await call(client, "petiole_publish", event_type=topic, stream_id="s", content={})
            assert ("published by the agents only" in text, is_error) == (True, True)
        text, is_error = await call(client, "petiole_request", request_type="add", responder="nobody", timeout_s=0.2)
        assert ("nobody" in text, is_error) == (True, True)

    with_client(url, act)


def test_a_call_that_lasts_is_a_task_that_is_approved_fetched_and_cancelled_by_any_client(served_team):
    url, _, ordered = served_team

    async def start(client: Client) -> None:
        ids.append(await call_for_task(client, "order", article="cake"))
        ids.append(await call_for_task(client, "petiole_ask", stream_id="s", text="Order tea", message_id="1"))
        assert await call_for_task(client, "petiole_ask", stream_id="s", text="Order tea", message_id="1") == ids[1]
        ids.append(await call_for_task(client, "order", article="pie"))

    async def finish(client: Client) -> None:
        for task_id, approved in ((ids[0], True), (ids[1], False)):
            ((name, asked),) = (await when(client, task_id, "input_required")).input_requests.items()
            assert asked["params"]["requestedSchema"]["required"] == ["approved"]
            answer = {"action": "accept", "content": {"approved": approved}}
            await of_task(client, "update", task_id, inputResponses={name: answer, "unknown": answer})
        result = (await when(client, ids[0], "completed")).result
        assert (result["content"][0]["text"], result["isError"]) == ("cake is ordered", False)
        assert (await when(client, ids[1], "completed")).result["content"][0]["text"].startswith("I order tea. ")
        without_header = Request[dict[str, Any], str](method="tasks/get", params={"taskId": ids[0]})
        for _ in "12":
            await of_task(client, "cancel", ids[2])
        await when(client, ids[2], "cancelled")
        with pytest.raises(MCPError, match="Mcp-Name"):
            await client.session.send_request(without_header, TaskState)
        with pytest.raises(MCPError, match="no task 'none'"):
            await of_task(client, "get", "none")
        assert await call(client, "petiole_publish", event_type="message.x", stream_id="s", content={})
        text, is_error = await call(client, "petiole_request", request_type="a", responder="nobody", timeout_s=0.2)
        assert ("nobody" in text, is_error) == (True, True)

    ids: list[str] = []
    for act in (start, finish):
        with_client(url, act, extensions=[Accepting()])
    assert ordered == ["cake"]


def test_a_client_without_the_extension_gets_no_task_and_is_told_what_is_missing(served_team):
    async def act(client: Client) -> None:
        with pytest.raises(MCPError) as refused:
            await of_task(client, "get", "none")
        assert refused.value.code == -32021
        assert refused.value.data["requiredCapabilities"]["extensions"] == {EXTENSION: {}}

    with_client(served_team[0], act)
