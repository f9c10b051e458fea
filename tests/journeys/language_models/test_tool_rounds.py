"""Rounds of tools that a model calls for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from petiole.events.catalog.orchestrator import ModelRequestedEvent, ResponseReadyEvent, ToolsRequestedEvent
from petiole.workers.agents import tools
from tests.journeys.language_models.team import Team, a_message, said
from tests.support.endpoint import Endpoint, Reply, a_call, a_chunk, a_usage, words


def calls_once(*calls: tuple[str, str]) -> Callable[[dict[str, Any]], Reply]:
    """Call tools for a message, and tell what they gave."""

    def reply(question: dict[str, Any]) -> Reply:
        results = [message["content"] for message in question["messages"] if message["role"] == "tool"]
        if results:
            return words(" and ".join(results))
        made = [a_call(place, name, arguments) for place, (name, arguments) in enumerate(calls)]
        return [*made, a_chunk(finish_reason="tool_calls"), a_usage()]

    return reply


def test_a_model_s_calls_are_made_and_it_answers_with_what_they_gave(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = calls_once(("calculator", '{"expression": "6 * 7"}'), ("calculator", '{"expression": "1 / 0"}'))

    events = team().send_through(a_message("Surprise me."), timeout=15)

    first, second = said(events, ModelRequestedEvent)
    assert (first.content.round, second.content.round) == (0, 1)
    (execute,) = [each for each in said(events, ToolsRequestedEvent) if each.content.phase == "execute"]
    assert len({call.call_id for call in execute.content.calls}) == 2
    (ready,) = said(events, ResponseReadyEvent)
    assert ready.content.text.startswith("6 * 7 is 42 and failed: ")
    assert [tool["function"]["name"] for tool in endpoint.asked[0]["tools"]].count("calculator") == 1


def test_a_call_of_an_unknown_tool_is_told_to_the_model(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = calls_once(("sextant", "{}"))

    (ready,) = said(team().send_through(a_message("Surprise me."), timeout=15), ResponseReadyEvent)

    assert "failed: no tool 'sextant' exists" in ready.content.text


def test_rounds_are_bounded_and_the_last_question_offers_no_tools(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(question: dict[str, Any]) -> Reply:
        if "tools" not in question:
            return words("Enough.")
        return [a_call(0, "calculator", '{"expression": "1 + 1"}'), a_chunk(finish_reason="tool_calls")]

    endpoint.reply = reply
    harness = team()

    events = harness.send_through(a_message("Surprise me."), timeout=30)

    assert [each.content.round for each in said(events, ModelRequestedEvent)] == [0, 1, 2, 3, 4]
    assert ["tools" in question for question in endpoint.asked] == [True, True, True, True, False]
    assert [ready.content.text for ready in said(events, ResponseReadyEvent)] == ["Enough."]
    assert harness.dead_letters() == []


def test_a_tool_that_never_answers_ends_the_round_after_a_while(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_TOOLS_TIMEOUT_S", "0.3")
    endpoint.reply = calls_once(("calculator", '{"expression": "6 * 7"}'))

    events = team(without=(tools.agent,)).send_through(a_message("Surprise me."), timeout=15)

    (ready,) = said(events, ResponseReadyEvent)
    assert ready.content.text == "failed: it did not answer within 0.3 s"
