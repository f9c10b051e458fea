"""Sessions as an operator and beat see them: the command line, and real processes."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable

import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus, Participant, open_session, record_session_event
from tests.support.apps import a_bus, command_line


@pytest.fixture
def bus(clean_broker_url):
    with a_bus(clean_broker_url) as bus:
        yield bus


@pytest.fixture
def typed(bus, monkeypatch) -> Callable[..., str]:
    type_ = command_line(bus, monkeypatch)

    def type_it(*arguments: str, code: int = 0) -> str:
        done = type_("sessions", *arguments)
        assert done.exit_code == code, done.output
        return done.output

    return type_it


def enter(bus: EventBus, stream_id: str, text: str = "hi") -> None:
    record_session_event(TextMessageEvent(stream_id=stream_id, content=TextContent(text=text)), bus=bus)


def test_sessions_are_listed_shown_and_ended(bus, typed, inside):
    for stream_id in ("one", "two"):
        enter(bus, stream_id)
    open_session("one", bus=bus).memory.set("topic", "tea")
    open_session("one", bus=bus).join(Participant(id="ada", name="Ada"))

    assert {each["session_id"] for each in json.loads(typed("list", "--json"))} == {"one", "two"}
    assert "two" in typed()
    shown = json.loads(typed("show", "one", "--json"))
    assert (shown["state"], shown["working_memory"], len(shown["events"])) == ("new", {"topic": "tea"}, 1)
    assert "ada user Ada" in typed("show", "one")
    assert "one has ended" in typed("end", "one")
    assert "one had ended before" in typed("end", "one")
    assert [each["session_id"] for each in json.loads(typed("--json"))] == ["two"]
    assert "did you mean 'two'?" in typed("show", "twos", code=1)
    assert inside.topics() == ["input.stream.ended", "operator.action.recorded", "operator.action.recorded"]


def test_many_sessions_are_printed_as_they_are_read(bus, typed, inside):
    inside.add_sessions(3_000)
    tracemalloc.start()

    headings, *rows = typed("--limit", "3000").splitlines()

    assert tracemalloc.get_traced_memory()[1] < 12_000_000
    tracemalloc.stop()
    assert headings.split()[0] == "session"
    assert {row.split()[0] for row in rows} == {f"s{number}" for number in range(3_000)}


@pytest.mark.long
def test_a_hundred_thousand_sessions_are_listed_at_once_within_a_limit(bus, typed, inside):
    inside.add_sessions(100_000)
    began = time.monotonic()
    tracemalloc.start()

    shown = typed("--json", "--limit", "20").splitlines()

    assert len(json.loads(next(line for line in shown if line.startswith("[")))) == 20
    assert "99980 more sessions are open; list them with --limit 100000" in shown
    assert time.monotonic() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert "did you mean 's1'?" in typed("show", "sx1", code=1)


def test_beat_ends_idle_sessions_once(node, bus, inside, eventually):
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.supervisor",
        PETIOLE_TICK_INTERVAL_S="0",
        PETIOLE_METRICS_INTERVAL_S="0",
        PETIOLE_SESSION_END_TIMEOUT_S="1",
    )
    node.worker("sweeping")
    for stream_id in ("one", "two", "three"):
        enter(bus, stream_id)
    node.start("celery", "-A", "workers", "beat", "--pidfile=", "-s", str(node.home / "schedule"))

    eventually(lambda: inside.open_sessions() == [], 30, node.logs)

    for stream_id in ("one", "two", "three"):
        facts = inside.session(stream_id)
        assert facts.end_reason == "idle"
        assert 1 <= (facts.ended_at - facts.last_activity).total_seconds() < 30
    told = [each["stream_id"] for each in inside.history("input.stream.ended")]
    assert sorted(told) == ["one", "three", "two"]
    assert inside.session_leftovers() == []
