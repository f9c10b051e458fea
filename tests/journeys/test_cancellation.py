"""A flow is cancelled: what of it runs or waits ends once, and nothing is said later."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events import Event, RequestEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.request import RequestContent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, cancel_flow
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output
from petiole.workers.agents import tools as tools_agent
from petiole.workers.tools import ToolRegistry, approvals
from tests.benchmarks.cancelling import measure, table
from tests.support.apps import a_bus, serve_tools
from tests.support.endpoint import serving, words
from tests.support.errors import has_code
from tests.support.inside import Inside

STOPPED_S = 20.0
"""Generous: it takes 0.3 s where nothing else runs."""


def cancel(harness: EventTestHarness, event: Event) -> float:
    """Cancel the flow of an event, and wait until all of it has ended; returns for how long."""
    began = time.monotonic()
    cancel_flow(event.correlation_id, by="ada", bus=harness.bus)
    harness._wait_until(harness._is_idle, "the flow goes on", STOPPED_S)
    return time.monotonic() - began


def topics(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ToolRegistry:
    registry = ToolRegistry()
    serve_tools(registry, monkeypatch)
    return registry


@pytest.fixture
def tools(registry: ToolRegistry) -> Iterator[EventTestHarness]:
    with EventTestHarness([tools_agent.agent]) as harness:
        yield harness


def a_call(tool: str) -> ToolsRequestedEvent:
    return ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=(ToolCall(call_id="c-1", tool=tool),)))


def test_deliveries_that_wait_never_start_and_other_flows_go_on(a_message: Any) -> None:
    started, gate, handled = threading.Event(), threading.Event(), list[str]()
    agent = Agent("shop")

    @agent.on("input.*")
    def sell(event: Event) -> None:
        started.set()
        gate.wait(10)
        handled.append(event.correlation_id)

    with EventTestHarness([agent]) as harness:
        first, second, third = a_message("1"), a_message("2"), a_message("3")
        harness.publish(first)
        assert started.wait(10)
        harness.publish(second)
        harness.publish(third)
        cancelled = cancel_flow(second.correlation_id, bus=harness.bus)
        gate.set()
        harness._wait_until(harness._is_idle, "it goes on", STOPPED_S)

        assert handled == [first.correlation_id, third.correlation_id]
        assert not cancelled.was_repeated
        assert cancel_flow(second.correlation_id, bus=harness.bus).was_repeated
        assert topics(harness).count("flow.cancelled") == 1
        assert Inside(harness).counts()["aborted"] == 1


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_handler_that_runs_is_interrupted_and_not_tried_again(a_message: Any, kind: str) -> None:
    started, ended, agent = threading.Event(), list[str](), Agent("shop")

    @agent.on("input.*")
    def sell(event: Event) -> object:
        return wait_async() if kind == "coroutine" else wait()

    def wait() -> object:
        started.set()
        try:
            for _ in range(600):
                time.sleep(0.05)
        finally:
            ended.append("function")
        return None

    async def wait_async() -> None:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("coroutine")

    with EventTestHarness([agent]) as harness:
        harness.publish(message := a_message())
        assert started.wait(10)
        assert cancel(harness, message) < STOPPED_S

        assert ended == [kind]
        assert harness.dead_letters() == []
        assert Inside(harness).counts() == {"aborted": 1, "unrouted": 1}


def test_a_tool_that_runs_is_interrupted_and_its_call_fails_once(
    tools: EventTestHarness, registry: ToolRegistry
) -> None:
    started = threading.Event()

    @registry.add
    def slow() -> str:
        started.set()
        for _ in range(600):
            time.sleep(0.05)
        return "too late"

    tools.publish(request := a_call("slow"))
    assert started.wait(10)
    cancel(tools, request)

    ends = [topic for topic in topics(tools) if topic.endswith((".completed", ".failed"))]
    assert ends == ["tools.execution.failed"]
    (failed,) = [event for event in tools.published_events() if event.event_type == ends[0]]
    assert "its flow was cancelled" in failed.content.error  # type: ignore[attr-defined]  # of its class
    assert tools.dead_letters() == []


def test_an_approval_that_is_pending_is_denied_and_its_call_fails_once(
    tools: EventTestHarness, registry: ToolRegistry
) -> None:
    ran: list[int] = []

    @registry.add(needs_approval=True)
    def order() -> str:
        ran.append(1)
        return "ordered"

    tools.publish(request := a_call("order"))
    asked: Any = tools.expect("tools.approval.requested")
    cancel(tools, request)

    with pytest.raises(UsageError, check=has_code("approval_decided")):
        approvals.grant(asked.content.approval_id, by="bob", bus=tools.bus)
    tools._wait_until(tools._is_idle, "it goes on", STOPPED_S)
    assert ran == []
    assert [topic for topic in topics(tools) if topic.startswith("tools.execution.")] == [
        "tools.execution.requested",
        "tools.execution.failed",
    ]


def test_a_request_that_waits_is_answered_that_its_flow_was_cancelled() -> None:
    started, agent = threading.Event(), Agent("shop")

    @agent.answers("stock")
    def stock() -> int:
        started.set()
        for _ in range(600):
            time.sleep(0.05)
        return 5

    with EventTestHarness([agent]) as harness:
        request = RequestEvent(content=RequestContent(request_type="stock", requester="web", responder="shop"))
        pending = harness.request(request, returns=int)
        assert started.wait(10)
        cancel(harness, request)
        response = pending.get()

        assert (response.ok, response.error_type) == (False, "flow_cancelled")
        assert [topic for topic in topics(harness) if topic.startswith("response.")] == ["response.failed"]


def test_a_model_that_writes_is_stopped_and_its_answer_is_never_sent(
    monkeypatch: pytest.MonkeyPatch, a_message: Any
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PETIOLE_LLM", "openai")
    monkeypatch.setenv("PETIOLE_LLM_MODEL", "parrot")
    agents = [module.agent for module in (orchestrator, memory, tools_agent, output)]
    writer = Agent("llm")
    writer.on("orchestrator.llm.requested", retry=llm.MODEL_RETRY_POLICY)(llm.answer)
    with serving(lambda _: words("ab" * 2000, 0.05)) as endpoint, EventTestHarness([writer, *agents]) as harness:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", endpoint.base_url)
        llm._cached_model.cache_clear()
        harness.publish(message := a_message("Why is the sky blue?"))
        harness._wait_until(lambda: endpoint.sent > 3, "it does not write", 10)
        cancel(harness, message)
        llm._cached_model.cache_clear()

        (generated,) = [event for event in harness.published_events() if isinstance(event, ResponseGeneratedEvent)]
        assert generated.content.finish_reason == "interrupted"
        assert endpoint.closed_at
        assert not {"orchestrator.response.ready", "output.message.sent"} & set(topics(harness))
        assert Inside(harness).chunks(message.stream_id)[-1].kind == "interrupted"
        assert harness.dead_letters() == []


def test_a_flow_that_nobody_knows_is_refused(a_message: Any) -> None:
    with EventTestHarness([]) as harness, pytest.raises(UsageError, check=has_code("unknown_flow")):
        cancel_flow("nobody", bus=harness.bus)


SHOP = """
import asyncio, time
from petiole.events import TextMessageEvent
from petiole.tasks import Agent
shop = Agent("shop")

@shop.on("input.*", where={"content.text": "wait"})
def wait(event: TextMessageEvent) -> None:
    print(f"waiting for {event.correlation_id}", flush=True)
    time.sleep(60)

@shop.on("input.*", where={"content.text": "wait_async"})
async def wait_async(event: TextMessageEvent) -> None:
    print(f"waiting for {event.correlation_id}", flush=True)
    await asyncio.sleep(60)
"""


def test_the_command_stops_handlers_in_other_processes(
    node: Any, inside: Inside, clean_broker_url: str, eventually: Any, a_message: Any
) -> None:
    node.module("agent_shop", SHOP)
    node.environment.update(PETIOLE_AGENTS="agent_shop")
    node.worker("first", "--pool", "prefork", "--concurrency", "2")
    with a_bus(clean_broker_url) as bus:
        for kind in ("wait", "wait_async"):
            bus.publish.run(a_message(kind, correlation_id=kind))
            eventually(lambda kind=kind: f"waiting for {kind}" in node.logs(), 20, node.logs)

        printed = node.command("cancel", "wait", "--reason", "enough")
        cancel_flow("wait_async", bus=bus)

    assert printed == "cancelled: flow wait\n"
    eventually(lambda: inside.counts().get("aborted") == 2, 20, node.logs)
    assert inside.dead_letters() == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_flow_that_is_cancelled_in_any_phase_ends_once_in_a_fraction_of_a_second_and_says_nothing_later() -> None:
    pytest.importorskip("openai")
    cancelled = measure()

    print(*table(cancelled), sep="\n")  # noqa: T201 - figures for who runs the long tests
    assert [each for each in cancelled if not each.ended_once] == []
    # A fraction of a second, where nothing else runs.
    assert all(each.stopped_s < STOPPED_S for each in cancelled)
