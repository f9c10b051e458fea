"""Calls of tools, from the request to the end of each: in one process, with tools of the test's own."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from petiole.events import Event
from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolResultEvent
from petiole.events.errors import Retryable
from petiole.events.ids import delivery_ids
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import tools as tools_agent
from petiole.workers.tools import ToolContext, ToolRegistry
from petiole.workers.tools.tool_calls import CallOutcome, build_call_requested, call_key
from tests.support.apps import serve_tools
from tests.support.inside import Inside


@pytest.fixture
def registry(monkeypatch):
    registry = ToolRegistry()
    serve_tools(registry, monkeypatch)
    return registry


@pytest.fixture
def team(registry):
    with EventTestHarness([tools_agent.agent]) as harness:
        yield harness


@pytest.fixture
def ran(registry: ToolRegistry):
    """Give a list of what the tool `order` was run with."""
    ran: list[str] = []

    @registry.add
    def order(article: str) -> str:
        """Order something."""
        ran.append(article)
        return f"{article} is ordered"

    return ran


def a_request(*calls: ToolCall, **fields: Any) -> ToolsRequestedEvent:
    return ToolsRequestedEvent.model_validate({"stream_id": "s", "content": ToolsRequest(calls=calls)} | fields)


def a_call(call_id: str = "c-1", tool: str = "order", **arguments: Any) -> ToolCall:
    return ToolCall(call_id=call_id, tool=tool, arguments=arguments)


def said_of(events: list[Event], call_id: str) -> list[str]:
    return [each.event_type.rpartition(".")[2] for each in events if getattr(each.content, "call_id", "") == call_id]


def ends_of(events: list[Event]) -> dict[str, Any]:
    return {each.content.call_id: each for each in events if isinstance(each, ToolResultEvent | ToolFailedEvent)}


def test_each_call_ends_once_and_what_fails_keeps_no_other_from_running(team, registry: ToolRegistry, ran):
    @registry.add
    def broken() -> str:
        raise RuntimeError("out of order")

    events = team.send_through(
        a_request(
            a_call("well", article="tea"),
            a_call("failing", "broken"),
            a_call("unknown", "ordre", article="tea"),
            a_call("wrong", artikel="tea"),
            a_call("last", article="cake"),
        )
    )

    ends = ends_of(events)
    assert {name: type(end).__name__ for name, end in ends.items()} == {
        "well": "ToolResultEvent",
        "failing": "ToolFailedEvent",
        "unknown": "ToolFailedEvent",
        "wrong": "ToolFailedEvent",
        "last": "ToolResultEvent",
    }
    for call_id in ends:
        assert said_of(events, call_id)[:2] == ["requested", "started"]
        assert len(said_of(events, call_id)) == 3
    assert "did you mean 'order'" in ends["unknown"].content.error
    assert "argument 'article'" in ends["wrong"].content.error
    assert "out of order" in ends["failing"].content.error
    assert sorted(ran) == ["cake", "tea"]
    assert team.dead_letters() == []


def test_progress_stands_between_start_and_end_and_rises(team, registry: ToolRegistry):
    @registry.add
    def steps(context: ToolContext) -> int:
        for step in range(1, 6):
            context.report(20 * step, f"step {step}")
        return 5

    events = team.send_through(a_request(a_call(tool="steps")))

    assert said_of(events, "c-1") == ["requested", "started", *["progress"] * 5, "completed"]
    assert [e.content.percent for e in events if e.event_type == "tools.execution.progress"] == [20, 40, 60, 80, 100]
    assert [each.timestamp for each in events] == sorted(each.timestamp for each in events)


def test_the_same_call_asked_for_twice_acts_once_and_ends_once(team, ran):
    for _ in range(2):
        team.send_through(a_request(a_call(article="tea"), correlation_id="a-flow"))

    assert ran == ["tea"]
    assert said_of(team.published_events(), "c-1") == ["requested", "started", "completed"]


def test_what_came_of_a_call_is_said_again_and_not_done_again_where_its_delivery_comes_back(team, ran, monkeypatch):
    ends = []
    build = CallOutcome.build_event

    def die_once(outcome, event, call):
        ends.append(outcome)
        if len(ends) == 1:
            raise RuntimeError("the worker dies after the call and before its delivery is settled")
        return build(outcome, event, call)

    monkeypatch.setattr(CallOutcome, "build_event", die_once)

    events = team.send_through(a_request(a_call(article="tea")))

    assert ran == ["tea"]
    assert len(ends) == 2
    assert said_of(events, "c-1") == ["requested", "started", "completed"]


@pytest.mark.parametrize(("on_unfinished", "runs", "end"), [("repeat", 1, "completed"), ("raise", 0, "failed")])
def test_a_call_whose_worker_died_in_the_middle_is_repeated_or_told(
    team, registry: ToolRegistry, on_unfinished, runs, end
):
    ran = []

    @registry.add(on_unfinished=on_unfinished)
    def charge() -> str:
        ran.append(1)
        return "charged"

    request = a_request(a_call(tool="charge"))
    call = build_call_requested(request, request.content.calls[0])
    (delivery_id,) = delivery_ids(call.event_id, ["tools.run_call"])
    Inside(team).begin_operation(f"tools.call:{call_key(call, call.content)}", delivery_id)

    events = team.send_through(request)

    assert len(ran) == runs
    assert said_of(events, "c-1") == ["requested", "started", end]
    assert [e.content.error_type for e in events if isinstance(e, ToolFailedEvent)] == ["OperationOutcomeUnknown"] * (
        1 - runs
    )


def test_a_tool_that_overruns_has_failed_and_others_go_on(team, registry: ToolRegistry, ran):
    @registry.add(timeout=0.2)
    def endless() -> str:
        while True:
            time.sleep(0.01)

    events = team.send_through(a_request(a_call("slow", "endless"), a_call("quick", article="tea")))

    ends = ends_of(events)
    assert ends["slow"].content.error_type == "tool_timeout"
    assert "timeout of 0.2 s" in ends["slow"].content.error
    assert ends["slow"].content.is_retryable
    assert ends["quick"].content.value == "tea is ordered"


@pytest.mark.parametrize("on_main_thread", [True, False], ids=["main thread", "another thread"])
def test_a_time_limit_holds_on_every_thread(registry: ToolRegistry, on_main_thread):
    @registry.add(timeout=timedelta(seconds=0.2))
    def endless() -> str:
        while True:
            time.sleep(0.01)

    ended: Counter[str] = Counter()

    def call() -> None:
        try:
            registry.call("endless", {}, ToolContext("s", lambda percent, note: None, lambda query, limit: []))
        except Retryable as error:
            ended[str(error)] += 1

    if on_main_thread:
        call()
    else:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(timeout=10)

    assert ended == {"endless exceeded its timeout of 0.2 s; request less work, or raise its timeout": 1}


def test_a_guarded_tool_that_keeps_failing_is_not_called_any_more(team, registry: ToolRegistry):
    ran = []

    @registry.add(guarded=True)
    def flaky(number: int) -> str:
        ran.append(number)
        raise ConnectionError("nobody there")

    events = team.send_through(a_request(*(a_call(f"c-{n}", "flaky", number=n) for n in range(8))))

    ends = ends_of(events)
    assert ran == [0, 1, 2, 3, 4]
    assert {ends[f"c-{n}"].content.error_type for n in range(5, 8)} == {"ServiceUnavailable"}
    assert all(end.content.is_retryable for name, end in ends.items() if name > "c-4")
    assert len(ends) == 8
    assert team.dead_letters() == []


def _fail_wordlessly() -> None:
    class WordlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise WordlessError


def _fail_with(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: _fail_with("b\udcff"), "ValueError: b\\udcff"),
        (lambda: _fail_with("x" * 9_000_000), "characters)"),
        (_fail_wordlessly, "WordlessError"),
        (lambda: sys.exit("b\udcff"), "SystemExit: b\\udcff"),
        (lambda: "b\udcff", "half of a surrogate pair"),
        (lambda: "x" * 9_000_000, "has 9,"),
    ],
    ids=["surrogate", "huge error", "wordless", "exit", "surrogate result", "huge result"],
)
def test_whatever_a_tool_says_its_call_ends_once_and_is_told(team, registry: ToolRegistry, act, words):
    def tool(context: ToolContext) -> str:
        """Act."""
        context.report(50, "note \udcff" * 1_000)
        return str(act())

    registry.add(tool)

    events = team.send_through(a_request(a_call("c-1", "tool")), timeout=15)

    end = ends_of(events)["c-1"]
    assert isinstance(end, ToolFailedEvent)
    assert words in end.content.error
    assert said_of(events, "c-1") == ["requested", "started", "progress", "failed"]
    assert team.dead_letters() == []


def test_a_tool_whose_text_is_long_is_read_in_part(team, registry: ToolRegistry):
    @registry.add
    def tool() -> str:
        """Act."""
        return "x" * 200_000

    events = team.send_through(a_request(a_call("c-1", "tool")), timeout=15)

    end = ends_of(events)["c-1"]
    assert isinstance(end, ToolResultEvent)
    assert end.content.value == "x" * 200_000
    assert str(end.content.data["text"]).endswith("x… (200000 characters)")


def test_the_same_arguments_act_once_in_a_flow_whatever_the_call_is_named(team, registry: ToolRegistry, ran):
    looked: list[str] = []

    @registry.add(repeatable=True)
    def look(place: str) -> str:
        looked.append(place)
        return "nothing"

    calls = [a_call(f"tea-{number}", article="tea") for number in range(3)]
    calls += [a_call(f"look-{number}", "look", place="here") for number in range(3)]
    events = team.send_through(a_request(*calls, a_call("cake", article="cake"), correlation_id="f"))
    again = team.send_through(a_request(a_call("later", article="tea"), correlation_id="f"))
    team.send_through(a_request(a_call("other", article="tea"), correlation_id="another flow"))

    assert Counter(ran) == {"tea": 2, "cake": 1}
    assert looked == ["here"] * 3
    ends = ends_of(events) | ends_of(again)
    assert {ends[f"tea-{number}"].content.value for number in range(3)} == {"tea is ordered"}
    assert ends["later"].content.value == "tea is ordered"
    assert len(ends) == len(calls) + 2


def test_a_call_that_failed_may_be_made_again(team, registry: ToolRegistry):
    ran: list[int] = []

    @registry.add
    def fickle() -> str:
        ran.append(1)
        if len(ran) == 1:
            raise ConnectionError("not yet")
        return "well"

    ends: dict[str, Any] = {}
    for call_id in ("first", "second"):
        ends |= ends_of(team.send_through(a_request(a_call(call_id, "fickle"), correlation_id="f")))

    assert [type(end).__name__ for end in ends.values()] == ["ToolFailedEvent", "ToolResultEvent"]
