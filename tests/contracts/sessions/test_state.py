"""What a session is: its type, state, participants, times and last events."""

from __future__ import annotations

import pytest

from petiole.events import AudioContent, Event, TextMessageEvent
from petiole.events.catalog.input import AudioChunkEvent
from petiole.events.errors import InvalidTransition, UsageError
from petiole.tasks import (
    Agent,
    Context,
    Participant,
    open_session,
    record_session_event,
)
from petiole.tasks.sessions.session import Session
from petiole.tasks.stores.sessions import TRANSITIONS, SessionInfo
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input as input_agent
from tests.contracts.sessions.session import a_message
from tests.support.errors import has_code
from tests.support.inside import Inside


def test_a_session_has_its_streams_id_a_type_a_state_and_those_who_take_part(bus):
    record_session_event(a_message(context={"user_id": "ada"}), session_type="meeting", bus=bus)
    facts = record_session_event(a_message(context={"user_id": "bob"}), bus=bus)

    assert (facts.session_id, facts.session_type, facts.state) == ("s", "meeting", "new")
    assert facts.participants == (Participant(id="ada"), Participant(id="bob"))


@pytest.mark.parametrize("kind", ["party", "", "Chat"])
def test_another_type_of_session_is_refused_and_makes_none(bus, kind):
    with pytest.raises(UsageError, check=has_code("invalid_option"), match="chat"):
        record_session_event(a_message(), session_type=kind, bus=bus)

    assert bus.stores.sessions.get("s") is None


def test_a_message_for_another_type_of_session_is_refused_and_not_published(enter):
    published: list[Event] = []

    with pytest.raises(UsageError, check=has_code("invalid_option"), match="meeting"):
        input_agent.publish_message("hi", stream_id="s", session_type="party", publish=published.append)

    assert published == []


def test_who_joins_takes_part_once_and_who_leaves_does_not(session):
    for _ in range(2):
        session.join(Participant(id="llm", role="agent", name="The model"))
    session.join(Participant(id="ada"))
    session.leave("ada")

    assert session.info.participants == (Participant(id="llm", role="agent", name="The model"),)


@pytest.mark.parametrize("to", TRANSITIONS)
@pytest.mark.parametrize("state", TRANSITIONS)
def test_a_session_goes_only_where_its_state_allows(session, state, to):
    reach = {"new": (), "active": ("active",), "idle": ("active", "idle"), "ended": ("ended",)}
    for step in reach[state]:
        session.transition(step)

    if to == state or to in TRANSITIONS[state]:
        assert session.transition(to) is (to != state)
        assert session.state == to
    else:
        with pytest.raises(InvalidTransition, match=f"from {state} to {to}"):
            session.transition(to)
        assert session.state == state


def test_an_event_brings_an_idle_session_back_to_life(bus, session):
    session.transition("active")
    session.transition("idle")

    assert record_session_event(a_message(), bus=bus).state == "active"


def test_what_there_is_none_of_is_named(bus):
    with pytest.raises(UsageError, check=has_code("unknown_session"), match="nobody"):
        Session(bus, "nobody").transition("idle")
    with pytest.raises(UsageError, check=has_code("unknown_session"), match="nobody"):
        Session(bus, "nobody").leave("ada")


def test_a_session_is_made_where_something_is_kept_in_it_and_not_where_it_is_looked_at(bus):
    assert (Session(bus, "a").has_ended, Session(bus, "a").memory.all(), Session(bus, "a").events()) == (False, {}, [])
    assert bus.stores.sessions.list_open() == []

    Session(bus, "a").memory.set("topic", "tea")
    Session(bus, "b").memory.increment("turns")
    Session(bus, "c").join(Participant(id="ada"))

    assert sorted(bus.stores.sessions.list_open()) == ["a", "b", "c"]


def test_a_session_keeps_when_it_was_created_and_its_last_activity_only_grows(bus):
    seen = [record_session_event(a_message(str(number)), bus=bus) for number in range(20)]

    assert len({each.created_at for each in seen}) == 1
    assert [each.last_activity for each in seen] == sorted(each.last_activity for each in seen)


def test_a_server_whose_clock_is_set_back_does_not_set_back_the_last_activity(bus):
    later = 1_000 * int(record_session_event(a_message(), bus=bus).last_activity.timestamp() + 60)
    Inside(bus).set_last_activity("s", later)

    assert record_session_event(a_message(), bus=bus).last_activity.timestamp() * 1_000 == later


def test_of_250_events_the_last_200_are_kept_in_order(bus):
    for number in range(250):
        record_session_event(a_message(str(number)), bus=bus)

    kept = Session(bus, "s").events()
    assert [event.content.text for event in kept if isinstance(event, TextMessageEvent)] == [
        str(number) for number in range(50, 250)
    ]


def test_a_large_event_is_kept_by_reference_and_read_whole(bus, publish):
    chunk = AudioChunkEvent(stream_id="s", content=AudioContent(data=b"x" * 100_000, duration_ms=20))
    record_session_event(chunk, bus=bus)

    (text,) = bus.stores.sessions.events("s")
    assert len(text) < 1_000
    assert Session(bus, "s").events() == []  # it is not published yet

    publish(chunk)
    assert Session(bus, "s").events() == [chunk]


def test_a_handler_has_the_session_of_its_event(harness: EventTestHarness):
    counter = Agent("counter")
    seen: list[SessionInfo] = []

    @counter.on("input.message.received")
    def count(event: TextMessageEvent, context: Context) -> None:
        context.session.memory.increment("turns")
        seen.append(context.session.info)

    harness.add(counter)
    for text in ("one", "two"):
        harness.send_through(a_message(text))

    assert open_session("s", bus=harness.bus).memory.get("turns") == 2
    assert {each.session_id for each in seen} == {"s"}
