"""Everyday requests to the default model: it helps with most of them, and says so where it cannot."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from petiole.events import EventContext, TextContent, TextMessageEvent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from petiole.workers.tools import ToolRegistry
from petiole.workers.tools.calculator import calculator
from petiole.workers.tools.clock import clock
from petiole.workers.tools.primes import primes
from petiole.workers.tools.recall import recall

REQUESTS: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("everyday_requests.toml").read_text(encoding="utf-8")
)["request"]
REFUSAL = "no language model"


def weather(city: str) -> str:
    """Tell the weather forecast of a city."""
    return f"Rain in {city} until the evening"


def light(room: str, state: Literal["on", "off"]) -> str:
    """Turn the light of a room on or off."""
    return f"The {room} light is {state}"


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventTestHarness]:
    registry = ToolRegistry()
    for function in (calculator, clock, primes, recall, weather, light):
        registry.add(function)
    monkeypatch.setattr(tools, "installed_tools", lambda: registry)
    monkeypatch.setattr(llm, "installed_tools", lambda: registry)
    with EventTestHarness([module.agent for module in (orchestrator, memory, tools, llm, output)]) as harness:
        yield harness


def ask(team: EventTestHarness, text: str) -> str:
    message = TextMessageEvent(
        stream_id="s", content=TextContent(text=text), context=EventContext(source="test", user_id="ada")
    )
    sent = team.send_event_and_wait(message, "output.message.sent", timeout=10)
    return str(sent.content.text)  # type: ignore[attr-defined]  # of that type


def test_of_forty_everyday_requests_thirty_are_helped_and_the_others_refused_honestly(team):
    answers = [ask(team, request["text"]) for request in REQUESTS]

    wrong = [
        (request["text"], answer)
        for request, answer in zip(REQUESTS, answers, strict=True)
        if not re.search(request.get("answer", REFUSAL), answer)
    ]
    helped = [request for request in REQUESTS if "answer" in request]
    assert wrong == []
    assert (len(REQUESTS), len(helped) >= 30) == (40, True)
    assert team.dead_letters() == []
