"""`petiole chat` and `petiole memory`: whose answer is shown, what is waited for, and what is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from click.testing import Result

from petiole.events.catalog.memory import MemoriesForgottenEvent
from petiole.events.catalog.output import MessageSentEvent
from petiole.events.catalog.proactive import ProactiveSuggestionEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolFailure
from petiole.events.event import EventContext
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, proactive, tools
from petiole.workers.agents.input import publish_message
from petiole.workers.cli import _conversation
from petiole.workers.cli._conversation import Conversation
from petiole.workers.tools import ToolRegistry, approvals
from tests.support.apps import as_default, command_line, serve_tools
from tests.support.inside import Inside, settle

AGENTS = [module.agent for module in (orchestrator, memory, tools, llm, output, proactive)]
QUESTION = "When does the library open?"


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventTestHarness]:
    registry = ToolRegistry()

    @registry.add(needs_approval=True)
    def order(article: str) -> str:
        """Order an article."""
        return f"{article} is ordered"

    serve_tools(registry, monkeypatch)
    monkeypatch.setattr(llm, "installed_tools", lambda: registry)
    with EventTestHarness(AGENTS) as harness:
        as_default(harness.bus, monkeypatch)
        monkeypatch.setattr(_conversation, "publish_message", partial(publish_message, publish=harness.publish))
        harness.bus.start()
        yield harness


@pytest.fixture
def petiole(team: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    return command_line(team.bus, monkeypatch)


def test_a_suggestion_follows_the_answer_and_is_not_taken_for_it(team):
    conversation = Conversation(team.bus, "s", "ada")
    for _ in range(2):
        publish_message(QUESTION, stream_id="s", user_id="ada", publish=team.publish)
        settle(team)
    list(conversation.take_messages())

    exchange = conversation.send(QUESTION)
    list(conversation.follow(exchange, 10))
    settle(team)

    sent = [event for event in team.published_events() if isinstance(event, MessageSentEvent)]
    (suggestion,) = [event for event in team.published_events() if isinstance(event, ProactiveSuggestionEvent)]
    assert [event.content.kind for event in sent] == ["answer", "answer", "answer", "suggestion"]
    assert sent[-1].causation_id == suggestion.event_id
    assert exchange.answer == sent[-2].content.text
    assert [(each.kind, each.question) for each in conversation.take_messages()] == [
        ("answer", QUESTION),
        ("suggestion", QUESTION),
    ]


def test_repeated_failures_reach_the_operators_stream_and_no_user(team, monkeypatch):
    monkeypatch.setenv("PETIOLE_OPERATOR_STREAM", "on-call")
    content = ToolFailure(call_id="c", tool="clock", error_type="ToolFailed", error="no zone", is_retryable=False)
    for _ in range(3):
        context = EventContext(source="test", user_id="ada")
        team.send_through(ToolFailedEvent(stream_id="s", content=content, context=context))

    (call,) = Inside(team).take_replies("on-call")
    assert "ada in stream s may need help" in call
    assert "clock" in call
    assert Inside(team).take_replies("s") == []


def test_a_chat_says_what_waits_for_approval_and_shows_the_late_answer_with_its_question(team, petiole):
    shown = petiole("chat", "--stream", "s", "--timeout", "1.5", keys="Order tea\n")

    (approval,) = approvals.find_approvals(["pending"], bus=team.bus)
    assert shown.exit_code == 1
    assert f"waiting for approval of order; decide it: petiole approvals grant {approval.id}" in shown.output
    assert "check that a worker runs" not in shown.output

    conversation = Conversation(team.bus, "s", "you")
    late = conversation.send("Order coffee")
    while not late.pending_approvals:
        list(conversation.follow(late, 0.2))
    for pending in list(approvals.find_approvals(["pending"], bus=team.bus)):
        approvals.grant(pending.id, by="boss", bus=team.bus)
    for _ in range(2):
        team.expect("output.message.sent")
    hello = conversation.send("Hello")
    list(conversation.follow(hello, 10))

    received = {each.text: each.question for each in conversation.take_messages()}
    assert late.answer is None
    assert "help" in str(hello.answer)
    assert received["Coffee is ordered."] == "Order coffee"
    assert received[str(hello.answer)] == "Hello"


def test_an_operator_sees_and_forgets_a_user(team, petiole):
    for user, text in (("ada", "My name is Ada."), ("grace", "My name is Grace.")):
        publish_message(text, stream_id="s", user_id=user, publish=team.publish)
    settle(team)

    known = json.loads(petiole("memory", "show", "ada", "--json").output)
    forgotten = petiole("memory", "forget", "ada")
    settle(team)

    assert [fact["value"] for fact in known["facts"]] == ["Ada"]
    assert known["messages"] == {"s": 2}
    assert forgotten.output == "forgotten: 1 facts and 2 messages\n"
    (event,) = [event for event in team.published_events() if isinstance(event, MemoriesForgottenEvent)]
    assert (event.context.user_id, event.content.facts, event.content.messages) == ("ada", 1, 2)
    assert petiole("memory", "show", "ada").output == "nothing is remembered\n"
    assert [each.said_by for each in Inside(team).remembered("s")] == ["grace", "grace"]
