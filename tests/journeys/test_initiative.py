"""Initiative: what the proactive agent says unasked, how seldom, and that it never answers itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from petiole.events import Event, EventContext, TextContent, TextMessageEvent
from petiole.events.catalog import event_classes
from petiole.events.catalog.memory import LearnedPattern, PatternLearnedEvent
from petiole.events.catalog.output import MessageSentEvent
from petiole.events.catalog.proactive import InterventionNeededEvent, PatternDetectedEvent, ProactiveSuggestionEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolFailure
from petiole.events.topics import TopicTrie
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, proactive, supervisor, tools
from tests.support.apps import subscribe
from tests.support.inside import is_quiet

MODULES = (orchestrator, memory, tools, llm, output, proactive, supervisor)
QUESTION = "When does the library open?"


@pytest.fixture
def team() -> Iterator[EventTestHarness]:
    with EventTestHarness([module.agent for module in MODULES]) as harness:
        yield harness


@pytest.fixture
def alone() -> Iterator[EventTestHarness]:
    """Only the proactive agent: whatever is published was said by the test or by it."""
    with EventTestHarness([proactive.agent]) as harness:
        yield harness


def a_question(text: str = QUESTION, stream_id: str = "s", user_id: str | None = "ada") -> TextMessageEvent:
    return TextMessageEvent(
        stream_id=stream_id, content=TextContent(text=text), context=EventContext(user_id=user_id, session_id=stream_id)
    )


def a_failure(user_id: str = "ada") -> ToolFailedEvent:
    content = ToolFailure(call_id="c", tool="clock", error_type="ToolFailed", error="no zone", is_retryable=False)
    return ToolFailedEvent(stream_id="s", content=content, context=EventContext(user_id=user_id))


def said(harness: EventTestHarness, kind: type[Event]) -> list[Event]:
    return [event for event in harness.published_events() if isinstance(event, kind)]


def test_three_equal_questions_lead_to_one_suggestion_which_is_sent_once(team):
    for text in (QUESTION, "when does the library open", "When does   the LIBRARY open?!"):
        team.send_through(a_question(text))

    (suggestion,) = said(team, ProactiveSuggestionEvent)
    sent = [each for each in said(team, MessageSentEvent) if each.causation_id == suggestion.event_id]
    assert len(sent) == 1
    assert len(said(team, MessageSentEvent)) == 4, "three answers and the suggestion"
    assert team.dead_letters() == []


def test_two_equal_questions_and_a_third_of_somebody_else_lead_to_nothing(team):
    for user_id in ("ada", "ada", "grace"):
        team.send_through(a_question(stream_id=user_id, user_id=user_id))

    assert [event for event in team.published_events() if event.event_type.startswith("proactive.")] == []


def test_a_user_is_known_in_all_streams_and_a_stream_without_a_user_is_one(alone):
    for number in range(3):
        alone.send_through(a_question(stream_id=f"s{number}"))
        alone.send_through(a_question(stream_id=f"t{number}", user_id=None))

    (suggestion,) = said(alone, ProactiveSuggestionEvent)
    assert suggestion.context.user_id == "ada"


def test_a_flood_of_triggers_is_one_suggestion(alone):
    for _ in range(29):
        alone.publish(a_question())
    alone.send_through(a_question())

    assert (len(said(alone, PatternDetectedEvent)), len(said(alone, ProactiveSuggestionEvent))) == (1, 1)


def test_a_suggestion_tells_why_and_how_sure_it_is(alone):
    for _ in range(3):
        alone.send_through(a_question())

    (suggestion,) = said(alone, ProactiveSuggestionEvent)
    assert isinstance(suggestion, ProactiveSuggestionEvent)
    assert QUESTION in suggestion.content.text
    assert "3 times" in suggestion.content.reason
    assert suggestion.content.confidence == 0.75
    assert suggestion.priority == 1


def test_failure_upon_failure_asks_for_somebody_once(alone):
    for _ in range(6):
        alone.send_through(a_failure())
    alone.send_through(a_failure("grace"))

    (needed,) = said(alone, InterventionNeededEvent)
    assert isinstance(needed, InterventionNeededEvent)
    assert "clock" in needed.content.reason
    assert said(alone, ProactiveSuggestionEvent) == []


def test_it_hears_whatever_others_say_and_nothing_that_it_led_to(team):
    for _ in range(3):
        team.send_through(a_question())

    table = RoutingTable(proactive.agent.subscriptions)
    heard = {event.event_id for event in team.published_events() if table.routes(event)}
    led_to = {event.event_id for event in team.published_events() if "proactive" in event.path}
    assert led_to
    assert heard == {event.event_id for event in team.published_events()} - led_to


@pytest.mark.parametrize(("path", "suggestions"), [((), 1), (("memory",), 1), (("proactive", "memory"), 0)])
def test_a_habit_leads_to_a_suggestion_unless_it_led_to_the_habit_itself(alone, path, suggestions):
    content = LearnedPattern(pattern=QUESTION, occurrences=3)

    alone.send_through(PatternLearnedEvent(stream_id="s", content=content, path=path))

    assert len(said(alone, ProactiveSuggestionEvent)) == suggestions


def test_it_hears_every_topic_once_but_those_of_the_error_channel():
    topics: TopicTrie[str] = TopicTrie()
    for subscription in proactive.agent.subscriptions:
        for pattern in subscription.patterns:
            topics.add(pattern, subscription.name)

    fixed = [kind.model_fields["event_type"].default for kind in event_classes()]
    heard = {topic: topics.match(topic) for topic in fixed if isinstance(topic, str) and topic[:6] != "error."}

    assert len(heard) > 50
    assert set(map(tuple, heard.values())) == {("proactive.watch",)}


def test_one_message_leads_to_so_many_events_and_then_to_none(team):
    team.send_through(a_question())

    assert is_quiet(team, for_s=0.5)


def test_a_proactive_agent_that_is_not_there_changes_nothing_for_the_others():
    with EventTestHarness([module.agent for module in MODULES]) as whole:
        expected = [event.event_type for event in whole.send_through(a_question("What is 12 * 7?"))]
    with EventTestHarness([module.agent for module in MODULES if module is not proactive]) as harness:
        subscribe(harness.bus, proactive.agent)

        sent = harness.send_event_and_wait(a_question("What is 12 * 7?"), "output.message.sent")

        assert isinstance(sent, MessageSentEvent)
        assert "84" in sent.content.text
        assert sorted(event.event_type for event in harness.published_events()) == sorted(expected)


SOAK_S = 20


@pytest.mark.long
def test_a_suggestion_and_its_sending_set_off_nothing_for_twenty_seconds(node, inside, eventually):
    node.worker("all")
    node.run(
        "from events import TextContent, TextMessageEvent\n"
        "from tasks import publish\n"
        f"for _ in range(3): publish(TextMessageEvent(stream_id='s', content=TextContent(text={QUESTION!r})))"
    )
    eventually(lambda: inside.topics().count("output.message.sent") == 4, 30, node.logs)

    counts = []
    for _ in range(SOAK_S):
        time.sleep(1)  # what is waited for is that nothing happens
        counts.append(len(inside.topics()))

    assert counts[2:] == [counts[-1]] * (SOAK_S - 2)
    assert inside.topics().count("proactive.suggestion.ready") == 1
