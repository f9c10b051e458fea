"""Agents behind gateways: a model that writes slowly, a server of its own process, and a client that comes back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest
from a2a.client import create_client
from a2a.helpers import get_artifact_text, new_text_part
from a2a.types import GetTaskRequest, Message, Role, SendMessageRequest, StreamResponse, TaskState
from a2a.utils.errors import A2AError

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input, llm, memory, orchestrator, output, tools  # noqa: A004 - the agent's name
from petiole.workers.gateways import a2a_push
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolCallRequested, ToolDescription
from petiole.workers.tools import ToolRegistry
from tests.support.apps import serve_tools
from tests.support.polling import wait_until
from tests.support.processes import Node, free_ports

_COMPLETED = TaskState.TASK_STATE_COMPLETED

SLOW_MODEL = """
import asyncio
from pathlib import Path
from petiole.workers.llm.provider import Finished, TextDelta

class Slow:
    name = "slow"

    async def answer(self, request, tools=()):
        runs = Path(f"runs-{request.text.split()[-1]}")
        runs.write_text((runs.read_text() if runs.exists() else "") + "x")
        attempt = len(runs.read_text())
        for number in range(25):
            yield TextDelta(f"{attempt}.{number} ")
            await asyncio.sleep(0.3 if attempt == 1 else 0.01)
        yield Finished(model=self.name)
"""
"""Each attempt at a message writes another text, the first one for some seconds."""


def whole_answer(attempt: int) -> str:
    """Return the text of an attempt of the slow model."""
    return "".join(f"{attempt}.{number} " for number in range(25))


class OrderingModel:
    """Calls the tool `order` first, and then says what came of it."""

    name = "ordering"

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        if not request.rounds:
            yield TextDelta("I order tea. ")
            yield ToolCallRequested("order", {"article": "tea"})
            yield Finished(model=self.name, finish_reason="tool_calls")
            return
        for word in ("Done: ", request.rounds[-1].answers[0].text):
            yield TextDelta(word)
        yield Finished(model=self.name)


@contextmanager
def ordering_team(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EventTestHarness, list[str]]]:
    """Give the bundled agents in this process, which order tea when asked, and a list of what was ordered."""
    registry, ordered = ToolRegistry(), list[str]()

    @registry.add(needs_approval=True)
    def order(article: str) -> str:
        """Order something."""
        ordered.append(article)
        return f"{article} is ordered"

    serve_tools(registry, monkeypatch)
    for module in ("agents.llm", "gateways.mcp_server"):
        monkeypatch.setattr(f"petiole.workers.{module}.installed_tools", lambda: registry)
    monkeypatch.setenv("PETIOLE_LLM", f"{__name__}:OrderingModel")
    agents = [input.agent, orchestrator.agent, memory.agent, tools.agent, llm.agent, output.agent, a2a_push.agent]
    with TemporaryDirectory() as home, EventTestHarness(agents, settings=Settings(home=Path(home))) as team:
        yield team, ordered


@dataclass
class Gateway:
    """A server that can be killed, and comes back under its address."""

    node: Node
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = self.node.start("petiole.workers.cli", "serve", "--port", str(self.port))
        wait_until(self.answers, 60, self.node.logs)

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/nothing", timeout=2).status_code == 404
        except httpx2.TransportError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def with_slow_model(node: Node) -> None:
    """Let the workers of a node answer with the slow model, and notice soon that another one died."""
    node.module("slow_model", SLOW_MODEL)
    node.environment.update(
        PETIOLE_LLM="slow_model:Slow",
        PETIOLE_VISIBILITY_TIMEOUT_S="2",
    )


def read_events(response: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events: each one's id, and its data."""
    entry_id = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            entry_id = value
        elif name == "data":
            yield entry_id, json.loads(value)


@dataclass
class ReturningReader:
    """Reads a stream of events to its end, and comes back with the last id whenever the connection is lost."""

    url: str
    last_type: str
    body: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def read(self, timeout_s: float = 200) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.events or self.events[-1][1].get("type") != self.last_type:
            assert time.monotonic() < deadline, self.events[-3:]
            headers = {"Last-Event-ID": self.events[-1][0]} if self.events else {}
            try:
                with httpx2.stream("POST", self.url, json=self.body, headers=headers, timeout=20) as response:
                    if response.status_code == 200:
                        for event in read_events(response):
                            self.events.append(event)
            except httpx2.TransportError:
                time.sleep(0.1)


def text_of_task(responses: Sequence[StreamResponse]) -> str:
    """Put together the artifacts as a client does."""
    texts: dict[str, str] = {}
    for response in responses:
        for artifact in response.task.artifacts:
            texts[artifact.artifact_id] = get_artifact_text(artifact)
        update = response.artifact_update
        if update.artifact.artifact_id:
            before = texts.get(update.artifact.artifact_id, "") if update.append else ""
            texts[update.artifact.artifact_id] = before + get_artifact_text(update.artifact)
    return "|".join(texts.values())


async def follow_task(url: str, text: str, seen: list[StreamResponse]) -> None:
    """Send a message by A2A and follow its task until it has ended, and again whenever the connection is lost."""
    message = Message(message_id="m", context_id="a2a", role=Role.ROLE_USER, parts=[new_text_part(text)])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        with suppress(A2AError):
            async with await create_client(url) as client:
                async for response in client.send_message(SendMessageRequest(message=message)):
                    seen += [response]
                if seen and (await client.get_task(GetTaskRequest(id=seen[0].task.id))).status.state == _COMPLETED:
                    return
        await asyncio.sleep(0.1)
