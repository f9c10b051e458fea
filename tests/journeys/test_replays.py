"""Events of the history delivered again, to one subscription."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from petiole.events import AudioContent, Event, MessageEvent
from petiole.events.catalog.input import AudioChunkEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context, replay_history
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli import petiole
from tests.support.errors import has_code
from tests.support.inside import Inside

noted: list[tuple[str, str, bool]] = []


def a_listener(name: str, *patterns: str) -> Agent:
    """Build an agent that notes what it hears: its name, the event's id, whether it was a replay."""
    agent = Agent(name)

    @agent.on(*patterns)
    def hear(event: Event, context: Context) -> None:
        noted.append((name, event.event_id, context.is_replay))

    return agent


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    noted.clear()


@pytest.fixture
def two(harness: EventTestHarness, a_message: Callable[..., Event]) -> EventTestHarness:
    """Give a harness in which two agents have heard ten messages."""
    harness.add(a_listener("one", "input.*"))
    harness.add(a_listener("two", "input.*"))
    for number in range(10):
        harness.publish(a_message(str(number), stream_id=f"s{number % 2}"))
    settle(harness)
    assert len(noted) == 20
    noted.clear()
    return harness


def settle(harness: EventTestHarness) -> None:
    """Wait until nothing is under way."""
    harness.send_through(MessageEvent(event_type="message.unheard", stream_id="nobody"))


def test_only_that_subscription_gets_the_events_and_knows_that_it_is_a_replay(two):
    published = [event.event_id for event in two.published_events() if event.event_type.startswith("input.")]

    done = replay_history("one.hear", bus=two.bus)

    settle(two)
    assert done.sent == 10
    assert noted == [("one", event_id, True) for event_id in published]


def test_a_replay_is_idempotent_under_its_id_and_another_delivers_again(two):
    first = replay_history("one.hear", bus=two.bus)
    settle(two)
    assert replay_history("one.hear", replay_id=first.id, bus=two.bus).sent == 10
    settle(two)
    assert len(noted) == 10

    replay_history("one.hear", bus=two.bus)

    settle(two)
    assert len(noted) == 20


def test_a_replay_may_be_limited_by_stream_and_time(two):
    between = Inside(two).recorded_at(4)
    future = datetime.now(UTC) + timedelta(hours=1)

    assert replay_history("one.hear", stream="s0", bus=two.bus).sent == 5
    assert replay_history("one.hear", since=future, bus=two.bus).sent == 0
    assert replay_history("one.hear", until=future, bus=two.bus).sent == 10
    earlier = replay_history("one.hear", until=between, bus=two.bus).sent
    later = replay_history("one.hear", since=between, bus=two.bus).sent
    assert earlier + later == 10


def test_a_replay_may_be_limited_by_flow_and_pattern(two, a_message):
    message = a_message()
    two.publish(message)

    assert replay_history("one.hear", correlation=message.correlation_id, bus=two.bus).sent == 1
    assert replay_history("one.hear", pattern="input.message.*", bus=two.bus).sent == 11
    assert replay_history("one.hear", pattern="input.audio.*", bus=two.bus).sent == 0
    assert replay_history("one.hear", pattern="message.*", bus=two.bus).sent == 0, "it does not hear them"


def test_what_a_replayed_handler_says_is_published_anew_once(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*")
    def answer(event: Event) -> MessageEvent:
        return event.caused(MessageEvent, event_type="message.answer")

    harness.add(agent)
    message = a_message()
    harness.publish(message)
    first = harness.expect("message.answer")

    for _ in range(2):
        replay_history("memory.answer", replay_id="again", bus=harness.bus)
        settle(harness)

    answers = [event for event in harness.published_events() if event.event_type == "message.answer"]
    assert len(answers) == 2
    assert answers[1].event_id != first.event_id
    assert {each.causation_id for each in answers} == {message.event_id}


def test_what_has_expired_is_replayed_all_the_same(harness, a_message):
    harness.add(a_listener("one", "input.*"))
    message = a_message(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    harness.send_through(message)
    assert noted == []

    replay_history("one.hear", bus=harness.bus)

    settle(harness)
    assert noted == [("one", message.event_id, True)]


def test_what_a_handler_says_meanwhile_is_not_replayed_to_it(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*", "message.*")
    def answer(event: Event) -> MessageEvent | None:
        return event.caused(MessageEvent, event_type="message.answer") if event.hops == 0 else None

    harness.add(agent)
    harness.send_through(a_message())

    assert replay_history("memory.answer", rate_hz=20, bus=harness.bus).sent == 2


def test_large_events_are_replayed_whole(harness):
    heard: list[Event] = []
    agent = Agent("memory")

    @agent.on("input.*")
    def hear(event: Event) -> None:
        heard.append(event)

    harness.add(agent)
    event = AudioChunkEvent(stream_id="s", content=AudioContent(data=b"x" * 100_000, duration_ms=1))
    harness.send_through(event)

    replay_history("memory.hear", bus=harness.bus)

    settle(harness)
    assert heard == [event, event]


def test_what_cannot_be_read_is_named_and_does_not_stop_the_rest(harness, a_message):
    harness.add(a_listener("one", "input.*"))
    event = AudioChunkEvent(stream_id="s", content=AudioContent(data=b"x" * 100_000, duration_ms=1))
    harness.publish(event)
    harness.send_through(a_message())
    Inside(harness).delete_payloads()

    done = replay_history("one.hear", bus=harness.bus)

    assert (done.sent, done.unreadable) == (1, (event.event_id,))


def test_a_replay_keeps_to_its_rate(two):
    began = time.monotonic()

    replay_history("one.hear", rate_hz=50, bus=two.bus)

    assert time.monotonic() - began >= 0.18


def test_a_replay_to_nobody_is_refused_with_the_nearest_name(two):
    with pytest.raises(UsageError, check=has_code("unknown_subscription"), match=r"did you mean 'one\.hear'"):
        replay_history("one.her", bus=two.bus)


def test_a_replay_of_no_pattern_or_no_moment_is_refused(two):
    with pytest.raises(UsageError, check=has_code("invalid_pattern")):
        replay_history("one.hear", pattern="**", bus=two.bus)
    with pytest.raises(UsageError, match="without a zone"):
        replay_history("one.hear", since=datetime(2026, 1, 1), bus=two.bus)  # noqa: DTZ001 - the test


AGENTS = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent, Context

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
one, two = Agent("one"), Agent("two")

@one.on("input.*")
def hear(event: Event, context: Context) -> None:
    handled.rpush("one.handled", f"{event.event_id} {context.is_replay} {context.idempotency_key}")

@two.on("input.*")
def hear(event: Event) -> None:
    handled.rpush("two.handled", event.event_id)
"""

PUBLISH_10 = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
for number in range(10):
    publish(TextMessageEvent(stream_id=f"s{number % 2}", content=TextContent(text=str(number))))
"""


@pytest.mark.long
def test_the_command_replays_through_a_worker_in_another_process(node, client, inside, eventually):
    node.module("agents_of_ours", AGENTS)
    node.environment["PETIOLE_AGENTS"] = "agents_of_ours"
    node.worker("first")
    node.run(PUBLISH_10)
    eventually(lambda: client.llen("one.handled") == client.llen("two.handled") == 10, 30, node.logs)

    dry = json.loads(node.command("replay", "one.hear", "--stream", "s1", "--since", "1h", "--dry-run", "--json"))
    done = json.loads(node.command("replay", "one.hear", "--rate", "100", "--json"))
    again = json.loads(node.command("replay", "one.hear", "--id", done["id"], "--json"))
    shown = node.command("replay", "one.hear", "--pattern", "message.*")

    eventually(lambda: client.llen("one.handled") == 20, 30, node.logs)
    eventually(lambda: inside.is_idle("one"), 30, node.logs)
    handled = [each.split() for each in client.lrange("one.handled", 0, -1)]
    assert dry["would_send"] == {"input.message.received": 5}
    assert (done["sent"], again["sent"], again["id"]) == (10, 10, done["id"])
    assert [is_replay for _, is_replay, _ in handled] == ["False"] * 10 + ["True"] * 10
    assert [event_id for event_id, _, _ in handled[:10]] == [event_id for event_id, _, _ in handled[10:]]
    assert len({key for _, _, key in handled}) == 20
    assert client.llen("two.handled") == 10, "the others get nothing"
    assert "replayed 0 to one.hear" in shown


@pytest.mark.parametrize("moment", ["yesterday", "5y", "2026-13-01", "99999999999d"])
def test_a_time_that_is_none_is_refused_before_anything_is_reached(moment):
    shown = CliRunner().invoke(petiole, ["replay", "one.hear", "--since", moment])

    assert shown.exit_code == 2
    assert "is not a time" in shown.stderr
