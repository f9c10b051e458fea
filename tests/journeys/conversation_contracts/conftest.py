"""The conversation, held once for all rows."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import pytest

from petiole.events import (
    Event,
)
from petiole.tasks.testing import EventTestHarness
from petiole.workers.process.discovery import load_agents
from tests.journeys.conversation_contracts.conversation import (
    STREAM,
    TURNS,
    Moody,
    Seen,
    say,
    with_weather,
)
from tests.support.apps import as_default


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def posted(patch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Give what a webhook's receiver got: id and text. It is away for the stream `unreachable`."""
    posted: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
            posted.append((said["message_id"], said["text"]))
            self.send_response(503 if said["stream_id"] == "unreachable" else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    patch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("PETIOLE_WEBHOOK_SECRET", "whsec_" + base64.b64encode(b"0" * 32).decode())
    patch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield posted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def seen(patch: pytest.MonkeyPatch, posted: list[tuple[str, str]]) -> Iterator[Seen]:
    """Hold the conversation."""
    module = ModuleType("a_model_of_this_file")
    module.Moody = Moody  # type: ignore[attr-defined]  # that is how it gets there
    patch.setitem(sys.modules, module.__name__, module)
    patch.setenv("PETIOLE_LLM", f"{module.__name__}:Moody")
    agents = load_agents(iter(["petiole.workers.agents"]))
    for name in ("petiole.workers.agents.orchestrator", "petiole.workers.agents.orchestrator.conversation_turn"):
        if hasattr(sys.modules.get(name), "plan_tools"):
            patch.setattr(f"{name}.plan_tools", with_weather)
    with EventTestHarness(agents) as team:
        as_default(team.bus, patch)
        messages = [say(team, text) for text in TURNS]
        events = [event for event in team.published_events() if event.stream_id == STREAM]
        flows: dict[str, list[Event]] = {}
        for event in events:
            flows.setdefault(event.correlation_id, []).append(event)
        yield Seen(team, posted, events, flows, [message.correlation_id for message in messages])
