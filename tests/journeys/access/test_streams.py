"""A stream is read and written by its user only, through every gateway."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from petiole.events.ids import derived_event_id
from petiole.tasks.testing import EventTestHarness
from petiole.workers.gateways.ag_ui import flow_of
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.identities import may_use_stream
from petiole.workers.gateways.tokens import Identity
from tests.contracts.channels.answers import serving
from tests.journeys.access.surfaces import ADA, ADMIN, BOB, OPERATOR, VIEWER
from tests.support.mcp_tasks import Accepting, of_task

SECRET = "the tea is in the left cupboard"
TASK = flow_of("of-ada", "r-1")
A2A = {"A2A-Version": "1.0"}
MCP = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}


def a_run(thread: str, run: str, text: str = "x") -> dict[str, Any]:
    return {"threadId": thread, "runId": run, "messages": [{"id": "u", "role": "user", "content": text}]}


def rpc(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def a_tool(name: str, **arguments: Any) -> dict[str, Any]:
    return rpc("tools/call", name=name, arguments={"stream_id": "of-ada", **arguments})


MESSAGE = {"messageId": "m", "role": "ROLE_USER", "contextId": "of-ada", "parts": [{"text": "x"}]}
EVENT = {"event_type": "message.order_placed", "content": {"parameters": {}}}

ATTEMPTS: dict[str, tuple[str, str, dict[str, Any] | None, dict[str, str]]] = {
    "publishes a message": ("POST", "/streams/of-ada/messages", {"text": "x"}, {}),
    "cancels a message": ("DELETE", f"/streams/of-ada/messages/{TASK}", None, {}),
    "reads answers": ("GET", "/streams/of-ada/events", None, {}),
    "reads answers from a place": ("GET", "/streams/of-ada/events", None, {"Last-Event-ID": "0-0"}),
    "reads what is being written": ("GET", "/streams/of-ada/text", None, {}),
    "runs a thread of AG-UI": ("POST", "/ag-ui", a_run("of-ada", "r-2"), {}),
    "posts a run of AG-UI again": ("POST", "/ag-ui", a_run("of-ada", "r-1"), {}),
    "goes on in a run of AG-UI": ("GET", "/ag-ui/threads/of-ada/runs/r-1", None, {}),
    "cancels a run of AG-UI": ("DELETE", "/ag-ui/threads/of-ada/runs/r-1", None, {}),
    "sends a message by A2A": ("POST", "/a2a", rpc("SendMessage", message=MESSAGE), A2A),
    "streams a message by A2A": ("POST", "/a2a", rpc("SendStreamingMessage", message=MESSAGE), A2A),
    "decides about a task of A2A": ("POST", "/a2a", rpc("SendMessage", message=MESSAGE | {"taskId": TASK}), A2A),
    "reads a task of A2A": ("POST", "/a2a", rpc("GetTask", id=TASK), A2A),
    "lists the tasks of A2A": ("POST", "/a2a", rpc("ListTasks", contextId="of-ada"), A2A),
    "subscribes to a task of A2A": ("POST", "/a2a", rpc("SubscribeToTask", id=TASK), A2A),
    "cancels a task of A2A": ("POST", "/a2a", rpc("CancelTask", id=TASK), A2A),
    "is notified of a task of A2A": (
        "POST",
        "/a2a",
        rpc("CreateTaskPushNotificationConfig", taskId=TASK, url="https://hooks.example.com"),
        A2A,
    ),
    "lists who is notified by A2A": ("POST", "/a2a", rpc("ListTaskPushNotificationConfigs", taskId=TASK), A2A),
    "asks by MCP": ("POST", "/mcp", a_tool("petiole_ask", text="x"), MCP),
    "publishes by MCP": ("POST", "/mcp", a_tool("petiole_publish", **EVENT), MCP),
    "reads a stream by MCP": ("POST", "/mcp", rpc("resources/read", uri="petiole://streams/of-ada/events"), MCP),
    "reads a flow by MCP": ("POST", "/mcp", rpc("resources/read", uri=f"petiole://flows/{TASK}/events"), MCP),
}
CALLERS = {"another user": BOB, "a viewer": VIEWER, "an operator": OPERATOR}


@pytest.fixture(scope="module")
def url(team: EventTestHarness) -> Iterator[str]:
    with serving(create_application(team.bus)) as url:
        answer = attempt(url, ("POST", "/ag-ui", a_run("of-ada", "r-1", SECRET), {}), ADA)
        assert "RUN_FINISHED" in answer[1]
        yield url


def attempt(url: str, request: tuple[str, str, dict[str, Any] | None, dict[str, str]], token: str) -> tuple[int, str]:
    """Send a request; gives its status and the text that comes, of a stream without end its first part."""
    method, path, body, headers = request
    with httpx2.stream(method, f"{url}{path}", json=body, headers=headers | with_token(token), timeout=30) as answer:
        if answer.status_code == 200 and path.startswith("/streams/"):
            return 200, ""
        return answer.status_code, answer.read().decode()


def with_token(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def is_refused(status: int, text: str) -> bool:
    """Return whether an answer is a refusal of access, or tells of nothing."""
    return status in {401, 403} or any(reason in text for reason in ("not yours", "no task", "needs the role"))


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
@pytest.mark.parametrize("request_", ATTEMPTS.values(), ids=ATTEMPTS)
def test_nobody_but_its_user_uses_a_stream(team, url, request_, caller):
    before = len(team.published_events())

    status, text = attempt(url, request_, caller)

    assert is_refused(status, text), text
    assert SECRET not in text
    assert len(team.published_events()) == before


@pytest.mark.parametrize("name", ATTEMPTS)
def test_its_user_uses_a_stream_and_an_admin_uses_every_one(url, name):
    # Users publish messages only.
    caller = ADMIN if name in {"publishes by MCP", "reads a flow by MCP"} else ADA

    status, text = attempt(url, ATTEMPTS[name], caller)

    assert not is_refused(status, text), text


@pytest.mark.parametrize("caller", [BOB, VIEWER, OPERATOR], ids=["another user", "a viewer", "an operator"])
def test_nobody_but_its_user_speaks_in_a_stream(url, caller):
    address = f"ws{url.removeprefix('http')}/streams/of-ada/voice"

    with pytest.raises(InvalidStatus, match="403"), connect(address, additional_headers=with_token(caller)):
        pass
    with connect(address, additional_headers=with_token(ADA)):
        pass


def test_tools_run_for_users_and_requests_are_sent_by_operators(url):
    def call(token: str, **arguments: Any) -> str:
        return attempt(url, ("POST", "/mcp", rpc("tools/call", **arguments), MCP), token)[1]

    request = {"name": "petiole_request", "arguments": {"request_type": "x", "responder": "nobody", "timeout_s": 0.1}}

    assert all("for a user" in call(token, name="nothing") for token in (VIEWER, OPERATOR))
    assert all("for a user" not in call(token, name="nothing") for token in (BOB, ADMIN))
    assert all("needs the role operator" in call(token, **request) for token in (VIEWER, BOB))
    assert "nobody" in call(OPERATOR, **request)


def test_a_task_of_mcp_is_seen_and_cancelled_by_its_user_only(url):
    asked = a_tool("petiole_ask", text="x", message_id="m-1")
    attempt(url, ("POST", "/mcp", asked, MCP), ADA)
    task_id = derived_event_id("mcp", "of-ada", "m-1")

    async def act(token: str, method: str) -> str:
        async with (
            httpx2.AsyncClient(headers=with_token(token)) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), extensions=[Accepting()]) as client,
        ):
            try:
                return (await of_task(client, method, task_id)).status
            except MCPError as error:
                return str(error)

    for caller, method in itertools.product((BOB, VIEWER, OPERATOR), ("get", "cancel")):
        assert "no task" in asyncio.run(act(caller, method))
    assert asyncio.run(act(ADA, "get")) == "completed"


@pytest.mark.parametrize("stream_id", ["system", "operators", "dead-letters", "webhook-shop", "mcp-x"])
def test_no_user_begins_a_stream_of_the_system(team, url, stream_id):
    status, _ = attempt(url, ("POST", f"/streams/{stream_id}/messages", {"text": "x"}, {}), BOB)

    assert status == 403


def test_a_user_writes_as_himself_whomever_he_names(team, url):
    answer = attempt(url, ("POST", "/streams/of-bob/messages", {"text": "x", "user_id": "ada"}, {}), BOB)

    published = next(each for each in team.published_events() if each.event_id == json.loads(answer[1])["event_id"])
    assert published.context.user_id == "bob"


def test_of_users_who_begin_a_stream_at_the_same_time_one_is_its_owner(team):
    users = [Identity(f"user {number}", "user", f"user {number}") for number in range(8)]
    begun: list[Identity] = []

    def begin(user: Identity) -> None:
        if may_use_stream(team.bus, user, "contested", is_write=True):
            begun.append(user)

    threads = [threading.Thread(target=begin, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (owner,) = begun
    assert [user for user in users if may_use_stream(team.bus, user, "contested")] == [owner]
    # Who reads a stream before it has begun would read what somebody writes later.
    assert not may_use_stream(team.bus, owner, "begun by nobody")
