"""How sessions begin and end: told once, whoever sweeps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from petiole.events import Event
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.errors import BrokerUnavailable, SessionEnded
from petiole.tasks import (
    EventBus,
    end_session,
    record_session_event,
)
from petiole.tasks.sessions.expiry import ExpiryResult, expire_sessions
from petiole.tasks.sessions.session import REFUSED_COUNTER, Session
from petiole.workers.agents import input as input_agent
from tests.contracts.sessions.session import a_message
from tests.support.inside import Inside


def topics(bus: EventBus) -> list[str]:
    return [each.topic for each in bus.stores.history.read_after()]


def test_of_20_first_messages_at_once_one_opens_the_session(bus, enter, publish):
    def say(number: int) -> None:
        input_agent.receive(str(number), stream_id="s", publish=publish)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(say, range(20)))

    assert topics(bus).count("input.stream.started") == 1
    assert topics(bus)[0] == "input.stream.started"
    assert topics(bus).count("input.message.received") == 20
    assert bus.stores.sessions.list_open() == ["s"]
    assert len(Session(bus, "s").events()) == 20


def test_a_beginning_that_was_not_told_is_told_with_the_next_message(bus, enter):
    published: list[Event] = []

    def gone(event: Event) -> None:
        raise BrokerUnavailable("publishing")

    with pytest.raises(BrokerUnavailable):
        input_agent.receive("one", stream_id="s", publish=gone)
    for text in ("two", "three"):
        input_agent.receive(text, stream_id="s", publish=published.append)

    assert [event.event_type for event in published] == ["input.stream.started"] + 2 * ["input.message.received"]


def test_an_ended_session_refuses_events_and_counts_them(bus, enter):
    published: list[Event] = []
    input_agent.receive("one", stream_id="s", publish=published.append)
    end_session("s", bus=bus)

    for _ in range(3):
        with pytest.raises(SessionEnded, match="with another stream id"):
            input_agent.receive("two", stream_id="s", publish=published.append)

    assert [event.event_type for event in published] == ["input.stream.started", "input.message.received"]
    assert bus.stores.counters.all()[REFUSED_COUNTER] == 3
    assert Session(bus, "s").events() == []


def test_a_session_that_is_closed_is_told_to_have_ended_once_and_forgets_what_it_kept(bus):
    record_session_event(a_message(), bus=bus)
    Session(bus, "s").memory.set("topic", "tea")

    assert [end_session("s", reason="failed", bus=bus) for _ in range(3)] == [True, False, False]

    (told,) = [each for each in bus.stores.history.read_after() if each.topic == "input.stream.ended"]
    assert StreamEndedEvent.model_validate(told.document).content.reason == "failed"
    assert Session(bus, "s").info.end_reason == "failed"
    assert (Session(bus, "s").memory.all(), Session(bus, "s").events()) == ({}, [])
    assert bus.stores.sessions.list_open() == []


def test_a_session_in_which_nothing_happens_is_idle_and_then_ends_within_one_sweep(bus):
    last = record_session_event(a_message(), bus=bus).last_activity
    Session(bus, "s").transition("active")

    assert expire_sessions(bus, last + timedelta(seconds=0.9)) == ExpiryResult()
    assert expire_sessions(bus, last + timedelta(seconds=1.1)) == ExpiryResult(idle=1)
    assert Session(bus, "s").state == "idle"
    assert expire_sessions(bus, last + timedelta(seconds=2.1)) == ExpiryResult(ended=1)

    assert Session(bus, "s").has_ended
    assert Session(bus, "s").info.end_reason == "idle"
    assert Inside(bus).session_leftovers() == []
    assert topics(bus) == ["input.stream.ended"]


def test_sweepers_that_run_at_once_tell_each_end_once(bus):
    for number in range(10):
        last = record_session_event(a_message(stream_id=f"s{number}"), bus=bus).last_activity

    with ThreadPoolExecutor(4) as pool:
        swept = list(pool.map(lambda _: expire_sessions(bus, last + timedelta(seconds=3)), range(4)))

    assert sum(each.ended for each in swept) == 10
    assert topics(bus) == ["input.stream.ended"] * 10
    assert bus.stores.sessions.list_open() == []


def test_an_end_that_was_not_told_is_told_by_the_next_sweep(bus):
    record_session_event(a_message(), bus=bus)
    Session(bus, "s").transition("ended", reason="closed")  # and whoever did it died

    assert expire_sessions(bus) == ExpiryResult()
    assert expire_sessions(bus) == ExpiryResult()

    assert topics(bus) == ["input.stream.ended"]


def test_what_happens_in_time_keeps_a_session_from_ending(bus):
    last = record_session_event(a_message(), bus=bus).last_activity

    for second in range(1, 6):
        Inside(bus).set_last_activity("s", int((last.timestamp() + second) * 1_000))
        assert expire_sessions(bus, last + timedelta(seconds=second + 0.5)) == ExpiryResult()


def test_every_key_of_a_session_is_forgotten_in_the_end(bus):
    record_session_event(a_message(context={"user_id": "ada"}), bus=bus)
    Session(bus, "s").memory.increment("turns")

    ages_s = Inside(bus).keys_of_sessions()
    assert len(ages_s) == 3
    assert all(age_s > 0 for age_s in ages_s.values())
