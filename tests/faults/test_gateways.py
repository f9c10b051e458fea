"""Clients of the gateways get the whole answer once, although worker and server are killed in mid-answer."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from a2a.types import StreamResponse
from ag_ui.core import Event
from mcp import Client
from mcp.types import TextContent
from pydantic import TypeAdapter

from tests.support.ag_ui_client import run_client, skip_without_client
from tests.support.gateways import (
    Gateway,
    ReturningReader,
    follow_task,
    text_of_task,
    whole_answer,
    with_slow_model,
)
from tests.support.mcp_tasks import follow_call
from tests.support.polling import wait_until


def messages_of(events: list[dict[str, Any]]) -> dict[str, str]:
    """Apply the events as a client of AG-UI does; gives its assistant's messages."""
    messages: dict[str, str] = {}
    for event in events:
        match event["type"]:
            case "MESSAGES_SNAPSHOT":
                messages = {each["id"]: each["content"] for each in event["messages"] if each["role"] == "assistant"}
            case "TEXT_MESSAGE_START":
                assert event["messageId"] not in messages
                messages[event["messageId"]] = ""
            case "TEXT_MESSAGE_CONTENT":
                messages[event["messageId"]] += event["delta"]
    return messages


STORY = "Tell me a story for"


@dataclass
class Clients:
    """A client of each protocol, each in a thread of its own, which comes back whenever its connection is lost."""

    url: str
    ag_ui: ReturningReader = field(init=False)
    a2a: list[StreamResponse] = field(default_factory=list)
    mcp: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        message = {"id": "u", "role": "user", "content": f"{STORY} agui"}
        body = {"threadId": "t", "runId": "r", "messages": [message]}
        self.ag_ui = ReturningReader(f"{self.url}/ag-ui", "RUN_FINISHED", body)
        self.threads = [
            threading.Thread(target=self.ag_ui.read),
            threading.Thread(target=lambda: asyncio.run(follow_task(self.url, f"{STORY} a2a", self.a2a))),
            threading.Thread(target=lambda: asyncio.run(follow_call(f"{self.url}/mcp", f"{STORY} mcp", self.mcp))),
        ]
        for thread in self.threads:
            thread.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that the client of AG-UI has."""
        return [event for _, event in self.ag_ui.events]

    def have_text(self) -> bool:
        return "TEXT_MESSAGE_CONTENT" in {event["type"] for event in self.events} and bool(text_of_task(self.a2a))

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(200)
            assert not thread.is_alive()


@pytest.mark.timeout(600)  # it starts up to four processes, one after the other
@pytest.mark.parametrize(
    "killed",
    [
        ("gateway", "worker"),
        pytest.param(("gateway",), marks=pytest.mark.long),
        pytest.param(("worker",), marks=pytest.mark.long),
    ],
    ids=" and ".join,
)
def test_clients_of_each_protocol_have_the_whole_answer_once_after_a_kill_in_mid_answer(node, killed):
    with_slow_model(node)
    gateway, worker = Gateway(node), node.worker("one", "--pool", "threads", "-c", "16")
    gateway.start()
    clients = Clients(gateway.url)
    clients.start()
    wait_until(lambda: clients.have_text() and (node.home / "runs-mcp").exists(), 120, node.logs)

    if "worker" in killed:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    if "gateway" in killed:
        gateway.kill()
        gateway.start()
    if "worker" in killed:
        node.worker("two", "--pool", "threads", "-c", "16")
    clients.finish()

    attempts = 2 if "worker" in killed else 1
    expected = whole_answer(attempts)
    assert (text_of_task(clients.a2a), clients.mcp) == (expected, [expected])
    for event in clients.events:
        TypeAdapter(Event).validate_python(event)
    assert list(messages_of(clients.events).values()) == [expected]
    counts = Counter(event["type"] for event in clients.events)
    assert (counts["RUN_STARTED"], counts["RUN_FINISHED"]) == (1, 1)
    assert (counts["TEXT_MESSAGE_START"], counts["TEXT_MESSAGE_END"]) == (attempts, attempts)
    assert len({entry_id for entry_id, _ in clients.ag_ui.events}) == len(clients.events)
    assert ask_again(f"{gateway.url}/mcp") == expected
    skip_without_client()
    assert run_client("verify", given=clients.events) == {"events": len(clients.events)}


def ask_again(url: str) -> str:
    async def act() -> str:
        async with Client(url) as client:
            message = {"stream_id": "mcp", "text": f"{STORY} mcp", "message_id": "m"}
            (content,) = (await client.call_tool("petiole_ask", message)).content
            assert isinstance(content, TextContent)
            return content.text

    return asyncio.run(act())
