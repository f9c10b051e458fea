"""Tools of MCP servers: real servers, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.tools import ToolProgressEvent
from petiole.events.errors import NotConfigured, ProviderUnavailable, Retryable, ToolFailed, UsageError
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import tools as tools_agent
from petiole.workers.tools import ToolContext, ToolOutput, ToolRegistry
from petiole.workers.tools.mcp import configured_servers
from tests.support.apps import serve_tools
from tests.support.errors import has_code

SERVER = Path(__file__).with_name("mcp_server.py")
STDIO = {"command": sys.executable, "args": [str(SERVER)], "env": {"A_SECRET": "${THE_SECRET}"}}


Open = Callable[..., ToolRegistry]


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Give what makes a registry of servers; they are ended with the module."""
    made: list[ToolRegistry] = []

    def open_it(**servers: Any) -> ToolRegistry:
        path = tmp_path_factory.mktemp("servers") / "mcp.json"
        path.write_text(json.dumps({"mcpServers": servers}))
        registry = ToolRegistry()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PETIOLE_MCP_SERVERS", str(path))
            patch.setenv("THE_SECRET", "xyzzy")
            for server in configured_servers():
                registry.add_source(server)
        made.append(registry)
        return registry

    yield open_it
    for registry in made:
        registry.close()


@pytest.fixture(scope="module")
def registry(open_registry: Open) -> ToolRegistry:
    """Give a registry with one server, which most tests share."""
    terms = {"needs_approval": ["broken"], "timeout_s": 20}
    return open_registry(shop=STDIO | {"petiole": terms})


def call(registry: ToolRegistry, tool: str, /, **arguments: Any) -> ToolOutput:
    return registry.call(tool, arguments, ToolContext("s", lambda percent, note: None, lambda query, limit: []))


def processes(registry: ToolRegistry) -> tuple[int, int]:
    """Ask a server for its process and its parent's."""
    found: Any = call(registry, "shop.processes").value
    server, parent = found
    return server, parent


def test_the_tools_of_a_server_are_told_with_their_schemas_and_no_process_stays_for_that(open_registry, eventually):
    registry = open_registry(shop=STDIO)
    others = set(psutil.Process().children())

    described = {each.name: (each.description, each.schema) for each in registry.all()}

    assert set(described) == {f"shop.{name}" for name in ("add", "steps", "broken", "die", "processes", "secret")}
    assert described["shop.add"][0] == "Add two numbers."
    assert described["shop.add"][1]["required"] == ["a", "b"]
    eventually(lambda: set(psutil.Process().children()) <= others, 10)


def test_a_tool_of_a_server_is_called_and_answers(registry):
    assert call(registry, "shop.add", a=2, b=3) == ToolOutput(5, "5")
    assert call(registry, "shop.secret").value == "xyzzy"


@pytest.mark.parametrize(("arguments", "argument"), [({"a": 1}, "b"), ({"a": "one", "b": 2}, "a")])
def test_wrong_arguments_are_refused_by_name(registry, arguments, argument):
    with pytest.raises(UsageError, check=has_code("invalid_arguments")) as refused:
        call(registry, "shop.add", **arguments)

    assert f"argument {argument!r}" in str(refused.value)


def test_what_a_tool_of_a_server_reports_as_an_error_is_a_failure(registry):
    with pytest.raises(ToolFailed, match="out of order"):
        call(registry, "shop.broken")


def test_approval_is_asked_for_the_tools_that_are_named(registry):
    assert registry.get("shop.broken").policy.needs_approval
    assert not registry.get("shop.add").policy.needs_approval


def test_the_server_is_kept_between_calls_and_its_process_is_a_child_of_the_caller(registry):
    first, second = (processes(registry) for _ in range(2))

    assert first == second
    assert first[1] == os.getpid()


def test_a_server_that_was_killed_is_started_anew_before_the_next_call(registry):
    before, _ = processes(registry)
    os.kill(before, signal.SIGKILL)

    after, _ = processes(registry)

    assert after != before


def test_a_server_that_dies_in_a_call_fails_that_call_and_no_later_one(registry):
    with pytest.raises(ProviderUnavailable, match="the MCP server 'shop'"):
        call(registry, "shop.die")

    assert call(registry, "shop.add", a=1, b=1).value == 2


def test_what_a_server_reports_on_the_way_is_progress(registry, monkeypatch):
    serve_tools(registry, monkeypatch)
    request = ToolCall(call_id="c-1", tool="shop.steps", arguments={"number": 4})

    with EventTestHarness([tools_agent.agent]) as team:
        asked = ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=(request,)))
        events = team.send_through(asked, timeout=20)

    progress = [(each.content.percent, each.content.note) for each in events if isinstance(each, ToolProgressEvent)]
    assert progress == [(25, "step 1"), (50, "step 2"), (75, "step 3"), (100, "step 4")]
    assert [each.event_type for each in events][-1] == "tools.execution.completed"


def test_a_call_that_overruns_has_failed_on_every_thread_and_the_server_goes_on(open_registry):
    registry = open_registry(shop=STDIO | {"petiole": {"timeout_s": 1.0}})
    process, _ = processes(registry)
    ended: list[float] = []

    def overrun() -> None:
        began = time.monotonic()
        with pytest.raises(Retryable, check=has_code("tool_timeout")):
            call(registry, "shop.steps", number=1_000, wait_s=0.1)
        ended.append(time.monotonic() - began)

    thread = threading.Thread(target=overrun)
    thread.start()
    thread.join(timeout=30)
    overrun()

    assert [1 <= each < 20 for each in ended] == [True, True]
    assert processes(registry)[0] == process


def test_a_server_that_does_not_start_fails_its_calls_and_no_others(open_registry):
    registry: ToolRegistry = open_registry(gone={"command": "/nowhere/at-all"})

    @registry.add
    def look() -> str:
        return "found"

    with pytest.raises(ProviderUnavailable, match="the MCP server 'gone'"):
        call(registry, "gone.anything")
    assert [each.name for each in registry.all()] == ["look"]
    assert call(registry, "look").value == "found"


def test_a_server_that_never_answers_delays_no_list_of_tools(open_registry, monkeypatch, eventually):
    monkeypatch.setattr("petiole.workers.tools.mcp.tool_source.FIRST_LIST_TIMEOUT_S", 0.5)
    registry: ToolRegistry = open_registry(hung={"command": sys.executable, "args": ["-c", "open(0).read()"]})
    others = set(psutil.Process().children())

    @registry.add
    def look() -> str:
        return "found"

    listed = [[each.name for each in registry.all()] for _ in "12"]

    assert listed == [["look"]] * 2
    eventually(lambda: set(psutil.Process().children()) - others, 20)  # it is still connecting
    for process in set(psutil.Process().children()) - others:
        process.kill()


def test_a_server_over_http_is_called_too(open_registry, unused_port, eventually):
    server = subprocess.Popen([sys.executable, str(SERVER), str(unused_port)], stderr=subprocess.DEVNULL)
    try:
        registry = open_registry(web={"url": f"http://127.0.0.1:{unused_port}/mcp", "headers": {"X-Test": "1"}})
        eventually(lambda: _listens(unused_port), 20)
        assert call(registry, "web.add", a=2, b=2).value == 4
        registry.close()
    finally:
        server.kill()
        server.wait(timeout=10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ('{"mcpServers": {"a.b": {"command": "x"}}}', "mcpServers.a.b"),
        ('{"mcpServers": {"a": {}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"T": "${NO_SUCH_NAME}"}}}}', "NO_SUCH_NAME"),
        ('{"mcpServers": {"a": {"command": "x", "petiole": {"needs_aproval": true}}}}', "needs_aproval"),
    ],
    ids=["no JSON", "a dot", "no way", "no variable", "misspelled"],
)
def test_a_file_that_cannot_be_is_refused_with_the_place(tmp_path, monkeypatch, text, words):
    path = tmp_path / "mcp.json"
    path.write_text(text)
    monkeypatch.setenv("PETIOLE_MCP_SERVERS", str(path))

    with pytest.raises(NotConfigured, match=words):
        list(configured_servers())


def test_toml_is_read_and_what_is_disabled_or_of_other_clients_is_left_out(tmp_path, monkeypatch):
    path = tmp_path / "mcp.toml"
    path.write_text(
        '[mcpServers.a]\ncommand = "x"\ntype = "stdio"\n[mcpServers.b]\nurl = "http://b"\ndisabled = true\n'
    )
    monkeypatch.setenv("PETIOLE_MCP_SERVERS", str(path))

    assert [each.name for each in configured_servers()] == ["a"]


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setenv("PETIOLE_MCP_SERVERS", "mcp.json")
    monkeypatch.setattr("petiole.workers.tools.mcp.find_spec", lambda name: None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[mcp\]"):
        list(configured_servers())


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_in_a_worker_of_processes_each_starts_its_own_server_and_takes_it_along(node, inside, eventually):
    path = node.home / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"shop": STDIO | {"env": {}}}}))
    node.environment["PETIOLE_MCP_SERVERS"] = str(path)
    worker = node.worker("tools", "--pool", "prefork", "--concurrency", "1", "-Q", "tools")

    request = ToolCall(call_id="c-1", tool="shop.processes", arguments={})
    event = ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=(request,)))
    node.run(f"import json; from tasks import publish; publish(json.loads({event.model_dump_json()!r}))")

    eventually(lambda: bool(inside.history("tools.execution.completed")), 45, node.logs)
    server, parent = inside.history("tools.execution.completed")[0]["content"]["data"]["value"]
    assert parent != worker.pid
    assert psutil.Process(parent).ppid() == worker.pid
    worker.terminate()
    worker.wait(timeout=20)
    eventually(lambda: not psutil.pid_exists(server), 10)
