"""Memory: what it learns, what it notices, how it cleans up, and that doing it all again adds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from petiole.events import ContextAssembledEvent, Event, EventContext, TextContent, TextMessageEvent
from petiole.events.catalog.memory import (
    AssembledContext,
    ConflictDetectedEvent,
    Consolidation,
    ConsolidationCompletedEvent,
    ConsolidationDue,
    ConsolidationDueEvent,
    MemoriesForgottenEvent,
    PatternLearnedEvent,
)
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.tasks import replay_history
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from petiole.workers.retrieval.forget_requests import ForgetRequest
from petiole.workers.state import team_state
from petiole.workers.state.forgetting import MemoryOwner, forget
from tests.support.inside import Inside, settle

DUE = ConsolidationDue(interval_s=3600, slot=1)


@pytest.fixture
def team() -> Iterator[EventTestHarness]:
    with EventTestHarness([module.agent for module in (orchestrator, memory, tools, llm, output)]) as harness:
        yield harness


@pytest.fixture
def alone() -> Iterator[EventTestHarness]:
    with EventTestHarness([memory.agent]) as harness:
        yield harness


def a_message(text: str, stream_id: str = "s", user_id: str | None = None) -> TextMessageEvent:
    return TextMessageEvent(stream_id=stream_id, content=TextContent(text=text), context=EventContext(user_id=user_id))


def say(harness: EventTestHarness, *texts: str, stream_id: str = "s", user_id: str | None = None) -> None:
    for text in texts:
        harness.send_through(a_message(text, stream_id, user_id))


def said(harness: EventTestHarness, kind: type[Event]) -> list[Event]:
    return [event for event in harness.published_events() if isinstance(event, kind)]


def context_of(harness: EventTestHarness, query: str, *, user_id: str) -> AssembledContext:
    asked = ContextRequestedEvent(
        stream_id="s", content=ContextRequest(query=query), context=EventContext(user_id=user_id)
    )
    told = harness.send_event_and_wait(asked, "memory.context.assembled")
    assert isinstance(told, ContextAssembledEvent)
    return told.content


def recalled(harness: EventTestHarness, query: str, stream_id: str = "s", user_id: str | None = None) -> list[str]:
    asked = ContextRequestedEvent(
        stream_id=stream_id, content=ContextRequest(query=query), context=EventContext(user_id=user_id)
    )
    told = harness.send_event_and_wait(asked, "memory.context.assembled")
    assert isinstance(told, ContextAssembledEvent)
    return [item.text for item in told.content.items]


def test_two_turns_are_four_memories_in_their_order(team):
    say(team, "Hello", "What is my name?")

    assert [each.role for each in Inside(team).remembered("s") if each.role != "tool"] == ["user", "assistant"] * 2


def test_a_request_without_history_is_answered_with_nothing(alone):
    assert recalled(alone, "What is my name?") == []


def test_two_values_of_one_fact_are_one_conflict_that_tells_both(alone):
    say(alone, "My name is Ada.", "my name is  ada", "My name is Grace.", "My name is Grace.")

    (conflict,) = said(alone, ConflictDetectedEvent)
    assert isinstance(conflict, ConflictDetectedEvent)
    content = conflict.content
    assert (content.subject, content.earlier, content.later) == ("user: name", "Ada", "Grace")


@pytest.mark.parametrize(
    ("one", "other", "conflicts"),
    [
        ("My name is Ada.", "My name is Ada Lovelace.", 0),
        ("I like tea.", "I like coffee.", 0),
        ("I like tea.", "I don't like tea.", 1),
        ("My car is broken.", "My car is fine.", 0),
        ("My favourite colour is red.", "My favourite colour is blue.", 1),
        ("I live in Paris.", "Do I live in Rome?", 0),
    ],
)
def test_only_what_cannot_both_hold_is_a_conflict(alone, one, other, conflicts):
    say(alone, one, other)

    assert len(said(alone, ConflictDetectedEvent)) == conflicts


def test_what_one_user_says_contradicts_no_other_user(alone):
    say(alone, "My name is Ada.", user_id="ada")
    say(alone, "My name is Grace.", user_id="grace")

    assert said(alone, ConflictDetectedEvent) == []


def test_a_fact_is_known_in_all_streams_of_its_user_and_in_no_others(alone):
    say(alone, "Hi there! My name is Ada.", stream_id="one", user_id="ada")

    assert recalled(alone, "what is my name", "two", "ada") == ["My name is Ada."]
    assert recalled(alone, "what is my name", "two", "grace") == []
    assert recalled(alone, "what is my name", "two") == []


def test_of_a_fact_that_has_changed_only_the_new_value_is_recalled(alone):
    say(alone, "My name is Ada.", "My name is Grace.", user_id="ada")

    assert recalled(alone, "what is my name", user_id="ada") == ["My name is Grace."]
    assert recalled(alone, "what is my name", "another", "ada") == ["My name is Grace."]


def test_where_meaning_is_chosen_other_words_find_it_too(alone, monkeypatch):
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "semantic")
    say(alone, "I bought a Volvo.", "The weather is fine.")

    assert recalled(alone, "Which car do I drive?") == ["I bought a Volvo."]


def test_what_a_tool_found_is_no_fact_and_is_unknown_in_other_streams(team):
    say(team, "What is 12 * 7?", stream_id="one", user_id="ada")

    assert recalled(team, "calculator", "two", "ada") == []
    (reading,) = [each for each in Inside(team).remembered("one") if each.role == "tool"]
    assert reading.text == "the tool calculator found: 12 * 7 is 84"


@pytest.mark.parametrize(
    ("said_before", "correction", "now"),
    [
        ("My name is Ada.", "No, that's wrong, my name is Eve.", "name: Eve"),
        ("My name is Ada.", "No, it's Eve, not Ada.", "name: Eve"),
        ("My name is Ada.", "My name isn't Ada, it's Eve.", "name: Eve"),
        ("I live in Paris.", "I moved to Rome.", "home: Rome"),
        ("I live in Paris.", "I don't live in Paris anymore, I live in Rome.", "home: Rome"),
        ("I live in Paris.", "Not Paris, I meant Rome", "home: Rome"),
    ],
)
def test_a_correction_wins_and_is_no_conflict(alone, said_before, correction, now):
    say(alone, said_before, correction, user_id="ada")

    known = context_of(alone, "what do you know?", user_id="ada")

    assert known.facts == (now,)
    assert known.conflicts == ()
    assert said(alone, ConflictDetectedEvent) == []


def test_a_contradiction_is_given_to_the_model_to_ask_about(team):
    say(team, "My name is Ada.", user_id="ada")

    sent = team.send_event_and_wait(a_message("My name is Eve.", user_id="ada"), "output.message.sent")

    assert "your name is Ada, and now Eve. Which is right?" in sent.content.text


@pytest.mark.parametrize(
    ("request_text", "left"),
    [
        ("Forget my name.", ("likes tea: yes", "home: Paris")),
        ("please forget that I like tea", ("name: Ada", "home: Paris")),
        ("Forget where I live", ("name: Ada", "likes tea: yes")),
        ("Forget what I just said", ("name: Ada", "likes tea: yes")),
        ("Forget everything you know about me!", ()),
        ("Forget it.", ("name: Ada", "likes tea: yes", "home: Paris")),
        ("Don't forget my name.", ("name: Ada", "likes tea: yes", "home: Paris")),
    ],
)
def test_what_the_user_asks_to_forget_is_forgotten(alone, request_text, left):
    say(alone, "My name is Ada.", "I like tea.", "I live in Paris.", user_id="ada")
    say(alone, "My name is Grace.", user_id="grace")

    context_of(alone, request_text, user_id="ada")

    assert context_of(alone, "what do you know?", user_id="ada").facts == left
    assert context_of(alone, "what do you know?", user_id="grace").facts == ("name: Grace",)
    is_forgotten = len(left) < 3
    assert len(said(alone, MemoriesForgottenEvent)) == is_forgotten
    kept = " ".join(each.text for each in Inside(alone).remembered("s"))
    assert all((fact.split(": ")[1] in kept) or fact.endswith("yes") for fact in left)
    assert not is_forgotten or "name: Ada" in left or "Ada" not in kept


def test_what_was_forgotten_does_not_come_back_by_a_replay(alone):
    say(alone, "My name is Ada.", user_id="ada")
    state = team_state(alone.bus)
    forget(state, MemoryOwner("ada", "s"), ForgetRequest(is_everything=True), alone.bus.now())

    assert replay_history("memory.remember", bus=alone.bus).sent > 0
    settle(alone)

    assert state.facts.read("user:ada") == []
    assert Inside(alone).remembered("s") == []


def test_a_memory_of_any_length_stands_in_the_context_in_part(alone):
    say(alone, "I told zebra stories. " + "zebra lorem ipsum " * 30_000, "Hello")

    (item,) = recalled(alone, "What about the zebra?")

    assert item.startswith("I told zebra stories. ")
    assert len(item) <= 300


def test_an_answer_that_was_forgotten_does_not_come_back_from_the_history(team):
    say(team, "My favourite city is Xanadoo", "What is my favourite city?", "Forget Xanadoo", user_id="ada")

    turns = context_of(team, "Hello", user_id="ada").turns

    assert [turn.text for turn in turns] == ["What is my favourite city?"]


def test_a_question_becomes_a_habit_once(alone):
    say(alone, "When does it open?", "when does it open?")
    assert said(alone, PatternLearnedEvent) == []

    say(alone, "When does it open?", "When does it open?")

    (habit,) = said(alone, PatternLearnedEvent)
    assert isinstance(habit, PatternLearnedEvent)
    assert (habit.content.pattern, habit.content.occurrences) == ("When does it open?", 3)


def test_the_end_of_a_stream_cleans_it_up(alone):
    say(alone, "I like tea.", "I like  TEA.", "I like milk.")

    alone.send_through(StreamEndedEvent(stream_id="s"))

    (done,) = said(alone, ConsolidationCompletedEvent)
    assert done.content == Consolidation(examined=3, merged=1)
    assert [each.text for each in Inside(alone).remembered("s")] == ["I like  TEA.", "I like milk."]


def test_a_clean_up_of_an_empty_memory_is_told_once_and_counts_nothing(alone):
    alone.send_through(ConsolidationDueEvent(content=DUE))

    (done,) = said(alone, ConsolidationCompletedEvent)
    assert done.content == Consolidation()


def test_a_clean_up_looks_at_every_stream_that_has_changed_since(alone):
    say(alone, "I like tea.", "I like tea.", stream_id="one")
    say(alone, "I like tea.", stream_id="two")

    for slot in (1, 2):
        alone.send_through(ConsolidationDueEvent(content=DUE.model_copy(update={"slot": slot})))

    assert [done.content for done in said(alone, ConsolidationCompletedEvent)] == [
        Consolidation(examined=3, merged=1),
        Consolidation(),
    ]


def test_a_replay_of_everything_adds_no_memory_and_no_event(team):
    question = "When does it open?"
    say(team, "My name is Ada.", "What is 12 * 7?", question, question, question, user_id="ada")
    say(team, "My name is Grace.", "My name is Grace.", user_id="ada")
    team.send_through(StreamEndedEvent(stream_id="s", context=EventContext(user_id="ada")))
    team.send_through(ConsolidationDueEvent(content=DUE))
    kinds = (ConflictDetectedEvent, PatternLearnedEvent, ConsolidationCompletedEvent)
    assert [len(said(team, kind)) for kind in kinds] == [1, 1, 2]
    kept, events = Inside(team).memory("s", "stream:s", "user:ada"), len(team.published_events())

    for name in ("memory.remember", "memory.consolidate", "memory.remember"):
        assert replay_history(name, bus=team.bus).sent > 0
        team.send_through(a_message("Go on.", stream_id="another"))
        # From here on nobody knows any more what was published: publishing it again would not be noticed.
        Inside(team).forget_publications()
    team.send_through(a_message("That is all.", stream_id="another"))

    assert Inside(team).memory("s", "stream:s", "user:ada") == kept
    assert [event for event in team.published_events()[events:] if event.stream_id != "another"] == []


def test_moments_are_those_of_the_events(alone):
    early = datetime(2026, 1, 1, tzinfo=UTC)
    late = a_message("My name is Ada.").model_copy(update={"timestamp": early})
    say(alone, "My name is Grace.")

    alone.send_through(late)

    (conflict,) = said(alone, ConflictDetectedEvent)
    assert isinstance(conflict, ConflictDetectedEvent)
    assert (conflict.content.earlier, conflict.content.later) == ("Ada", "Grace")
