"""What sessions promise, on a real server and on the stand-in that the harness uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import fakeredis
import pytest
import redis
from pydantic import ValidationError

from petiole.events import AudioContent, Event, TextContent, TextMessageEvent
from petiole.events.catalog.input import AudioChunkEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.errors import BrokerUnavailable, InvalidTransition, SessionEnded, UsageError
from petiole.tasks import (
    Agent,
    Context,
    Participant,
    end_session,
    mark_session_started,
    open_session,
    record_session_event,
)
from petiole.tasks.bus import EventBus
from petiole.tasks.sessions.expiry import ExpiryResult, expire_sessions
from petiole.tasks.sessions.session import REFUSED_COUNTER, Session
from petiole.tasks.settings import Settings
from petiole.tasks.stores.sessions import TRANSITIONS, SessionInfo
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input as input_agent
from tests.support.apps import a_bus
from tests.support.errors import has_code

LIMITS = Settings(session_idle_timeout_s=1, session_end_timeout_s=2)


@pytest.fixture(params=["fakeredis", "valkey"])
def bus(request: pytest.FixtureRequest) -> Iterator[EventBus]:
    state: redis.Redis
    if request.param == "fakeredis":
        state = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    else:
        state = redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True)
    with state, a_bus(settings=LIMITS, state=state) as bus:
        bus.app.conf.update(broker_url="memory://", result_backend="cache+memory://")
        yield bus


@pytest.fixture
def enter(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the input agent use this bus."""
    for step in (record_session_event, mark_session_started):
        monkeypatch.setattr(input_agent, step.__name__, partial(step, bus=bus))


@pytest.fixture
def publish(bus: EventBus) -> Callable[[Event], object]:
    return bus.publish.run


@pytest.fixture
def session(bus: EventBus) -> Session:
    return open_session("s", bus=bus)


def a_message(text: str = "hi", stream_id: str = "s", **fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": stream_id, "content": TextContent(text=text)} | fields)


def topics(bus: EventBus) -> list[str]:
    return [each.topic for each in bus.stores.history.read_after()]


# Types, participants, states


def test_a_session_has_its_streams_id_a_type_a_state_and_those_who_take_part(bus):
    record_session_event(a_message(context={"user_id": "ada"}), session_type="meeting", bus=bus)
    facts = record_session_event(a_message(context={"user_id": "bob"}), bus=bus)

    assert (facts.session_id, facts.session_type, facts.state) == ("s", "meeting", "new")
    assert facts.participants == (Participant(id="ada"), Participant(id="bob"))


@pytest.mark.parametrize("kind", ["party", "", "Chat"])
def test_another_type_of_session_is_refused_and_makes_none(bus, kind):
    with pytest.raises(ValidationError, match="chat"):
        record_session_event(a_message(), session_type=kind, bus=bus)

    assert bus.stores.sessions.get("s") is None


def test_a_message_for_another_type_of_session_is_refused_and_not_published(enter):
    published: list[Event] = []

    with pytest.raises(ValidationError, match="meeting"):
        input_agent.receive("hi", stream_id="s", session_type="party", publish=published.append)

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


# Times and the buffer


def test_a_session_keeps_when_it_was_created_and_its_last_activity_only_grows(bus):
    seen = [record_session_event(a_message(str(number)), bus=bus) for number in range(20)]

    assert len({each.created_at for each in seen}) == 1
    assert [each.last_activity for each in seen] == sorted(each.last_activity for each in seen)


def test_a_server_whose_clock_is_set_back_does_not_set_back_the_last_activity(bus):
    later = 1_000 * int(record_session_event(a_message(), bus=bus).last_activity.timestamp() + 60)
    bus.stores.sessions._client.hset("petiole:sessions:s", "last", later)

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


# Beginning and end


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
    assert not bus.stores.sessions._client.exists("petiole:session_events:s", "petiole:session_memory:s")
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
        bus.stores.sessions._client.hset("petiole:sessions:s", "last", int((last.timestamp() + second) * 1_000))
        bus.stores.sessions._client.zadd("petiole:sessions", {"s": 0})
        assert expire_sessions(bus, last + timedelta(seconds=second + 0.5)) == ExpiryResult()


def test_every_key_of_a_session_is_forgotten_in_the_end(bus):
    record_session_event(a_message(context={"user_id": "ada"}), bus=bus)
    Session(bus, "s").memory.increment("turns")

    client = bus.stores.sessions._client
    names = [name for name in client.keys("petiole:session*") if name != "petiole:sessions"]
    assert len(names) == 3
    assert all(client.ttl(name) > 0 for name in names)


# Working memory


def test_working_memory_keeps_json_values(session):
    values = {"text": "tea ☕", "count": 3, "share": 0.5, "is": True, "none": None, "list": [1, {"a": []}]}

    session.memory.update({**values, "pause": timedelta(seconds=5)})

    assert session.memory.all() == values | {"pause": timedelta(seconds=5)}
    assert session.memory.get("count") == 3
    assert session.memory.get("nothing", "else") == "else"
    session.memory.remove(["count", "unknown"])
    assert session.memory.get("count") is None


def test_50_increments_at_once_are_50(session):
    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(lambda _: session.memory.increment("turns"), range(50)))

    assert sorted(seen) == list(range(1, 51))
    assert session.memory.get("turns") == 50


def test_a_working_memory_over_its_limit_is_refused_and_keeps_what_it_had(session):
    session.memory.update({"topic": "tea", "list": "x" * 60_000})

    with pytest.raises(UsageError, check=has_code("working_memory_full"), match=r"hold 6\d,\d{3} bytes, 65,536"):
        session.memory.update({"topic": "coffee", "more": "y" * 6_000})

    assert session.memory.get("topic") == "tea"
    assert session.memory.get("more") is None
    session.memory.remove(["list"])
    session.memory.update({"topic": "coffee", "more": "y" * 6_000})
    assert session.memory.get("topic") == "coffee"


def test_a_counter_that_finds_no_room_is_not_counted(bus):
    bus.settings = Settings(max_session_memory_bytes=10)
    session = open_session("s", bus=bus)
    session.memory.set("aaaa", 1)

    with pytest.raises(UsageError, check=has_code("working_memory_full")):
        session.memory.increment("bbbbbb")
    with pytest.raises(UsageError, check=has_code("working_memory_full")):
        session.memory.increment("aaaa", 10**7)

    assert session.memory.all() == {"aaaa": 1}


@pytest.mark.parametrize(
    "value", [float("nan"), object(), {1: 2}, 2**70, b"x"], ids=["nan", "object", "key", "big", "bytes"]
)
def test_what_is_no_json_is_refused_by_name_and_changes_nothing(session, value):
    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="topic"):
        session.memory.update({"other": 1, "topic": value})

    assert session.memory.all() == {}


@pytest.mark.parametrize("by", [0.5, True, "1", 2**63])
def test_only_a_whole_number_is_counted(session, by):
    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="turns"):
        session.memory.increment("turns", by)


@pytest.mark.parametrize("value", ["tea", 1.5, [1], 2**63 - 1])
def test_what_is_no_whole_number_does_not_grow(session, value):
    session.memory.set("turns", value)

    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="set it to a whole number"):
        session.memory.increment("turns")

    assert session.memory.get("turns") == value


def test_a_whole_number_of_64_bits_is_counted_exactly(session):
    session.memory.set("turns", 2**62)

    assert session.memory.increment("turns") == 2**62 + 1


def test_an_ended_session_has_no_working_memory(bus, session):
    session.transition("ended", reason="closed")

    with pytest.raises(SessionEnded):
        session.memory.set("topic", "tea")
    with pytest.raises(SessionEnded):
        session.memory.increment("turns")
    with pytest.raises(SessionEnded):
        session.join(Participant(id="ada"))


# In a handler


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
