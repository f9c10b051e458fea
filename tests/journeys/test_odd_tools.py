"""Every call of a tool ends once, completed or failed, whatever its server or its function does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject

from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolResultEvent
from petiole.events.errors import OperationInProgress, RetryLater, StreamSuperseded
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import tools as tools_agent
from petiole.workers.tools import ToolContext, ToolOutput, ToolRegistry
from petiole.workers.tools.mcp import configured_servers
from tests.journeys import odd_mcp_server
from tests.support.apps import serve_tools

SERVER = Path(odd_mcp_server.__file__)
FINE = {
    *("not UTF-8", "half a surrogate pair", "an unknown block", "a block without a type", "content that is text"),
    *("content null", "structured text", "against its output schema", "isError as text", "garbage before"),
    *("odd progress", "asks the client", "answers twice", "result null", "result that is a list"),
    *("schema null", "schema that is text", "schema with true", "schema with a slow pattern"),
    *("schema with a broken pattern", "a long description", "description null", "good", "twin", "x" * 300, ""),
}
"""The tools whose calls complete although they are odd."""


class Unreadable:
    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


class Unprintable(Exception):  # noqa: N818 - not about an error's name
    def __str__(self) -> str:
        raise RuntimeError("no words")


def of_itself() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


RAISED: dict[str, BaseException] = {
    "exits": SystemExit(3), "interrupts": KeyboardInterrupt(), "closes": GeneratorExit(),
    "cancels": asyncio.CancelledError(), "no_memory": MemoryError(), "too_deep": RecursionError(),
    "rejects": Reject("drop me", requeue=False), "ignores": Ignore(), "defers": RetryLater("later", 60),
    "in_progress": OperationInProgress("mine", "k", "now"), "superseded": StreamSuperseded("a", 1),
    "no_words": Unprintable(), "half_words": ValueError("\ud83d" * 10), "many_words": ValueError("x" * 5_000_000),
    "many_causes": ExceptionGroup("many", [ValueError("x")]),
}  # fmt: skip
RETURNED: dict[str, object] = {
    "an_object": object(), "unreadable": Unreadable(), "its_own_list": of_itself(), "bytes_": b"\xff",
    "nan": float("nan"),
    "half_a_pair": "\ud83d", "odd_keys": {1: 2}, "huge_number": 2**80, "megabytes": "x" * 6_000_000,
    "odd_text": ToolOutput("fine", Unreadable()), "a_set": {1}, "a_generator": (x for x in "ab"),  # type: ignore[arg-type]
}  # fmt: skip


def add_functions(registry: ToolRegistry) -> list[str]:
    def raising(error: BaseException) -> Callable[[], None]:
        def function() -> None:
            raise error

        return function

    def returning(value: object) -> Callable[[], object]:
        return lambda: value

    def overruns() -> None:
        while True:
            try:
                time.sleep(10)
            except Exception:  # noqa: BLE001, S112 - what some tools do
                continue

    def reports_oddly(context: ToolContext) -> str:
        context.report(50, "\ud83d" * 1000)
        context.report(150, "too much")
        return "fine"

    functions: dict[str, Callable[..., object]] = {name: raising(error) for name, error in RAISED.items()}
    functions |= {name: returning(value) for name, value in RETURNED.items()}
    functions |= {"overruns": overruns, "reports_oddly": reports_oddly}
    for name, function in functions.items():
        function.__name__ = name
        function.__annotations__.pop("return", None)
        registry.add(timeout=0.3)(function)
    return list(functions)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToolRegistry]:
    pytest.importorskip("mcp")
    path, registry = tmp_path / "mcp.json", ToolRegistry()
    server = {"command": sys.executable, "args": [str(SERVER)], "petiole": {"timeout_s": 1}}
    path.write_text(json.dumps({"mcpServers": {"odd": server}}))
    monkeypatch.setenv("PETIOLE_MCP_SERVERS", str(path))
    monkeypatch.setattr(sys.modules["petiole.workers.tools.tool"], "MAX_CHECK_S", 0.3)
    for source in configured_servers():
        registry.add_source(source)
    serve_tools(registry, monkeypatch)
    yield registry
    registry.close()


def test_one_bad_tool_of_a_server_hides_none_of_its_others(registry: ToolRegistry) -> None:
    names = {tool.name for tool in registry.all()}

    assert names == {f"odd.{name}" for name in odd_mcp_server.NAMES}


def test_every_call_of_an_odd_tool_ends_once(registry: ToolRegistry) -> None:
    functions = add_functions(registry)
    names = [*functions, *(f"odd.{name}" for name in dict.fromkeys(odd_mcp_server.NAMES))]
    arguments: dict[str, dict[str, Any]] = {"odd.schema with a slow pattern": {"a": "a" * 60 + "b"}}
    calls = tuple(
        ToolCall(call_id=name, tool=name, arguments=arguments.get(name, {"a": "b"} if "schema" in name else {}))
        for name in [*names, "odd.no such tool", "nobody.at all"]
    )

    with EventTestHarness([tools_agent.agent]) as team:
        asked = ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=calls))
        events = team.send_through(asked, timeout=120)
        letters = team.dead_letters()

    ended = [event for event in events if isinstance(event, ToolResultEvent | ToolFailedEvent)]
    counts = Counter(event.content.call_id for event in ended)
    completed = {event.content.call_id for event in ended if isinstance(event, ToolResultEvent)}
    assert [call.call_id for call in calls if counts[call.call_id] != 1] == []
    assert {name for name in completed if name.startswith("odd.")} == {f"odd.{name}" for name in FINE}
    assert completed.isdisjoint({*RAISED, "overruns"})
    assert letters == []
    assert len(calls) > 30
    assert max(len(event.model_dump_json()) for event in ended) < 5_000_000
