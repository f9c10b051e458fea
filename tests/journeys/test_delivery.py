"""What an event does on its way, seen from outside, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from petiole.events import (
    CustomEvent,
    ErrorEvent,
    Event,
    EventContext,
    EventRegistry,
    MessageEvent,
    ParametersContent,
    Value,
)
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context, publish
from petiole.tasks.settings import Settings
from petiole.tasks.stores.inbox import Inbox
from petiole.tasks.testing import EventTestHarness
from tests.support.errors import has_code
from tests.support.inside import Inside


def a_message_event(kind: str, event: Event) -> MessageEvent:
    return MessageEvent(event_type=f"message.{kind}", stream_id=event.stream_id)


def an_echo(name: str, *patterns: str) -> Agent:
    """Build an agent that answers each event it hears with `message.<name>`."""
    agent = Agent(name)

    @agent.on(*patterns)
    def answer(event: Event) -> MessageEvent:
        return a_message_event(name, event)

    return agent


def types(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def test_every_agent_whose_pattern_matches_gets_the_event(harness, a_message):
    harness.add(an_echo("orchestrator", "input.*"))
    harness.add(an_echo("memory", "input.*"))

    publication = harness.publish(a_message())

    assert publication.subscriptions == ("memory.answer", "orchestrator.answer")
    harness.expect("message.memory")
    harness.expect("message.orchestrator")


def test_an_event_that_nobody_hears_is_published_and_counted(harness, a_message):
    publication = harness.publish(a_message())

    assert publication.subscriptions == ()
    assert Inside(harness).counts() == {"unrouted": 1}


def test_a_published_event_can_be_sent_through_the_publish_queue(harness, a_message):
    harness.add(an_echo("memory", "input.*"))

    harness.delay(a_message())

    harness.expect("message.memory")


def test_publishing_an_event_again_changes_nothing(harness, a_message):
    harness.add(an_echo("memory", "input.*"))
    message = a_message()
    harness.publish(message)
    harness.expect("message.memory")

    again = harness.publish(message)

    assert again.was_repeated
    assert types(harness) == ["input.message.received", "message.memory"]


def test_what_a_handler_returns_is_a_consequence_of_what_it_heard(harness, a_message):
    harness.add(an_echo("memory", "input.*"))
    message = a_message(context=EventContext(source="test", user_id="u1"))
    harness.publish(message)

    answer = harness.expect("message.memory")

    assert (answer.causation_id, answer.correlation_id) == (message.event_id, message.correlation_id)
    assert (answer.trace_id, answer.hops, answer.path) == (message.trace_id, 1, ("memory",))


def test_a_caused_event_carries_the_context(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*")
    def answer(event: Event) -> MessageEvent:
        return event.caused(MessageEvent, event_type="message.memory")

    harness.add(agent)
    harness.publish(a_message(context=EventContext(source="test", user_id="u1")))

    assert harness.expect("message.memory").context == EventContext(source="test", user_id="u1")


def test_a_handler_may_say_several_things_in_every_way(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    def as_a_generator(event: Event) -> Iterator[Event]:
        yield a_message_event("one", event)
        publish(a_message_event("two", event))
        yield a_message_event("three", event)

    @agent.on("input.*")
    async def later(event: Event) -> list[Event]:
        return [a_message_event("four", event)]

    harness.add(agent)
    harness.publish(a_message())

    harness.expect("message.three")
    harness.expect("message.four")
    said = [kind for kind in types(harness) if kind.startswith("message.")]
    assert sorted(said) == ["message.four", "message.one", "message.three", "message.two"]
    assert said.index("message.one") < said.index("message.two") < said.index("message.three")


def test_what_a_failed_handler_said_is_not_published(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    def fail(event: Event) -> Iterator[Event]:
        yield a_message_event("held", event)
        publish(a_message_event("early", event), now=True)
        raise RuntimeError("no more")

    harness.add(agent)
    harness.publish(a_message())

    harness.expect_dead_letter()
    harness.expect("error.dead_lettered")
    harness.expect("agent.failed")
    assert sorted(types(harness)) == ["agent.failed", "error.dead_lettered", "input.message.received", "message.early"]


def test_a_failed_delivery_is_one_dead_letter_with_its_event_and_its_reason(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*")
    def fail(event: Event) -> None:
        raise RuntimeError("the disk is full")

    harness.add(agent)
    message = a_message()
    harness.publish(message)

    letter = harness.expect_dead_letter()

    assert (letter.subscription, letter.cause) == ("memory.fail", "failed")
    assert (letter.error_type, letter.error) == ("RuntimeError", "the disk is full")
    assert "in fail" in letter.traceback
    assert harness.bus.event_registry.parse(letter.document) == message


def test_a_failed_delivery_does_not_disturb_the_others(harness, a_message):
    agent = Agent("broken")

    @agent.on("input.*")
    def fail(event: Event) -> None:
        raise RuntimeError("broken")

    harness.add(agent)
    harness.add(an_echo("memory", "input.*"))
    harness.publish(a_message())

    harness.expect_dead_letter()
    harness.expect("message.memory")


def test_a_failing_error_handler_does_not_start_over(harness, a_message):
    agent = Agent("broken")

    @agent.on("input.*", "error.*")
    def fail(event: Event) -> None:
        raise RuntimeError("broken")

    harness.add(agent)
    harness.publish(a_message())

    harness.expect("error.dead_lettered")
    harness.send_through(a_message(stream_id="another"))
    assert len(harness.dead_letters()) == 4
    assert types(harness).count("error.dead_lettered") == 2


def test_what_cannot_be_published_makes_the_delivery_a_dead_letter(harness, a_message):
    agent = Agent("talker")

    @agent.on("input.*")
    def say(event: Event) -> list[object]:
        return [a_message_event("fine", event), "text"]

    harness.add(agent)
    harness.publish(a_message())

    letter = harness.expect_dead_letter()
    assert (letter.error_type, "text" in types(harness)) == ("handler_returned_no_event", False)
    assert "message.fine" not in types(harness)


def test_a_circle_of_agents_ends_at_the_hop_limit(a_message):
    with EventTestHarness(settings=Settings(max_hops=5)) as harness:
        ping, pong = Agent("ping"), Agent("pong")

        @ping.on("input.*", "message.pong")
        def serve(event: Event) -> MessageEvent:
            return a_message_event("ping", event)

        @pong.on("message.ping")
        def answer(event: Event) -> MessageEvent:
            return a_message_event("pong", event)

        harness.add(ping)
        harness.add(pong)
        harness.publish(a_message())

        letter = harness.expect_dead_letter()

        assert (letter.cause, letter.error_type) == ("loop", "hop_limit_reached")
        assert [event.hops for event in harness.published_events() if event.event_type != "error.dead_lettered"] == [
            0, 1, 2, 3, 4, 5, 6,
        ]  # fmt: skip


def test_two_agents_that_hear_everything_do_not_answer_each_other_for_ever(harness, a_message):
    harness.add(an_echo("first", "*"))
    harness.add(an_echo("second", "*"))

    harness.send_through(a_message())

    said = sorted((event.event_type, event.path) for event in harness.published_events()[1:])
    assert said == [
        ("message.first", ("first",)),
        ("message.first", ("second", "first")),
        ("message.second", ("first", "second")),
        ("message.second", ("second",)),
    ]
    assert harness.dead_letters() == []


def test_everything_does_not_include_the_error_channel(harness, a_message):
    harness.add(an_echo("curious", "*"))
    harness.add(an_echo("supervisor", "error.*"))

    harness.publish(ErrorEvent.model_validate({"content": {"error_type": "Boom", "message": "boom"}}))

    harness.expect("message.curious")
    assert types(harness).count("message.curious") == 1, "it hears what the supervisor says, not the error itself"


def test_an_expired_event_is_not_handled(harness, a_message):
    harness.add(an_echo("memory", "input.*"))

    harness.send_through(a_message(expires_at=datetime.now(UTC) - timedelta(seconds=1)))

    assert types(harness) == ["input.message.received"]


def test_a_handler_knows_its_delivery(harness, a_message):
    agent = Agent("memory")

    @agent.on("input.*")
    def tell(event: Event, context: Context) -> MessageEvent:
        known: dict[str, Value] = {"attempt": context.attempt, "flow": len(context.flow())}
        content = ParametersContent(parameters=known)
        return MessageEvent(event_type="message.known", stream_id=event.stream_id, content=content)

    harness.add(agent)
    harness.publish(a_message())

    known = harness.expect("message.known").content.parameters
    assert (known["attempt"], known["flow"]) == (1, 1)


def test_declared_events_travel_like_those_of_the_catalog(a_message):
    known = EventRegistry()
    known.declare("custom.data_updated", {"entity_id": str, "field": str})
    with EventTestHarness([an_echo("memory", "custom.data_updated")], event_registry=known) as harness:
        updated = ParametersContent(parameters={"entity_id": "user_123", "field": "email"})

        harness.publish(CustomEvent(event_type="custom.data_updated", stream_id="s", content=updated))

        harness.expect("message.memory")


def test_an_undeclared_event_is_refused_and_nothing_is_sent(harness):
    with pytest.raises(UsageError, check=has_code("unknown_event_type")):
        harness.publish(CustomEvent(event_type="custom.unheard_of", stream_id="s"))

    assert harness.published_events() == []


def test_an_agent_cannot_join_a_running_harness(harness, a_message):
    harness.publish(a_message())

    with pytest.raises(UsageError, match="before the first publish"):
        harness.add(an_echo("late", "input.*"))


@pytest.mark.parametrize("junk", [[], "text", None, 5, {}, {"event_type": {}}])
def test_a_task_message_that_holds_no_event_is_one_dead_letter(harness, a_message, junk):
    harness.add(an_echo("memory", "input.*"))
    harness.send_through(a_message())

    harness.bus.app.send_task("memory.answer", args=[junk], queue="memory")

    letter = harness.expect_dead_letter()
    assert (letter.cause, letter.document) == ("invalid", junk)


def test_a_delivery_whose_inbox_is_away_is_handled_when_it_is_back(harness, a_message, monkeypatch):
    harness.add(an_echo("memory", "input.*"))
    look, looks = Inbox.is_handled, []

    def look_in_vain_at_first(inbox: Inbox, delivery_id: str) -> bool:
        looks.append(delivery_id)
        if len(looks) == 1:
            raise RedisConnectionError("the store is away")
        return look(inbox, delivery_id)

    monkeypatch.setattr(Inbox, "is_handled", look_in_vain_at_first)
    harness.publish(a_message())

    assert harness.expect("message.memory")
    assert harness.dead_letters() == []
