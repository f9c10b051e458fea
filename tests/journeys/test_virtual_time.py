"""The harness's virtual time and its faults: what goes wrong is set up in one line, and nothing waits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from petiole.events import Event, MessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.instrumentation import DeliveryFinished
from petiole.tasks.testing import EventTestHarness


def a_repeater(ran: list[str] | None = None, **options: object) -> Agent:
    agent = Agent("repeater")

    @agent.on("input.*", **options)  # type: ignore[arg-type]  # options of a test
    def repeat(event: Event) -> MessageEvent:
        if ran is not None:
            ran.append(event.event_id)
        return event.caused(MessageEvent, event_type="message.repeated")

    return agent


def outcomes_of(harness: EventTestHarness) -> list[str]:
    """Collect the outcomes of deliveries as they end."""
    outcomes: list[str] = []
    harness.bus.instrumentation.listen(
        lambda record: outcomes.append(record.outcome) if isinstance(record, DeliveryFinished) else None
    )
    return outcomes


def topics(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def test_a_delayed_event_comes_when_time_was_advanced_to_it_and_not_before(harness, a_message):
    harness.add(a_repeater())
    began = time.monotonic()
    harness.publish(a_message(), delay=timedelta(days=30))

    harness.advance(timedelta(days=29, hours=23))
    assert topics(harness) == []
    harness.advance(timedelta(hours=2))

    assert topics(harness) == ["input.message.received", "message.repeated"]
    assert time.monotonic() - began < 20


def test_what_is_due_within_the_time_happens_in_order(harness, a_message):
    for hours in (3, 1, 2):
        harness.publish(a_message(str(hours)), delay=timedelta(hours=hours))

    harness.advance(timedelta(hours=2, minutes=30))

    assert [event.content.text for event in harness.published_events()] == ["1", "2"]


def test_events_after_an_advance_have_the_later_time(harness, a_message):
    harness.add(a_repeater())
    before = harness.now()

    harness.advance(timedelta(days=7))
    harness.send_through(a_message())

    assert all(event.timestamp - before >= timedelta(days=7) for event in harness.published_events())
    assert timedelta(days=7) <= harness.now() - before < timedelta(days=7, minutes=5)


def test_a_delivery_that_expired_in_the_meantime_is_not_handled(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran, expires=timedelta(minutes=5), retry=RetryPolicy(base=600, cap=900)))
    harness.bus.start()
    harness.faults.fail("repeater.repeat")
    harness.publish(a_message())

    harness.advance(timedelta(hours=1))

    assert ran == []
    assert harness.dead_letters() == []


def test_time_cannot_go_back(harness):
    with pytest.raises(UsageError, match="advance by 0 or more"):
        harness.advance(-1)


def test_a_handler_that_fails_twice_is_tried_again(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran))
    harness.faults.fail("repeater.repeat", times=2, error=ConnectionError("away"))

    harness.send_event_and_wait(a_message(), "message.repeated")

    assert len(ran) == 1
    assert harness.dead_letters() == []


def test_a_handler_that_always_fails_ends_as_a_dead_letter(harness, a_message):
    harness.add(a_repeater(retry=RetryPolicy(max_attempts=3)))
    harness.faults.fail("repeater.repeat", times=9)
    harness.publish(a_message())

    letter = harness.expect_dead_letter()

    assert "fails in this test" in letter.error
    assert len(letter.attempts) == 3


def test_a_message_that_comes_twice_is_handled_once(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran))
    outcomes = outcomes_of(harness)
    harness.faults.duplicate("repeater.repeat")

    harness.send_through(a_message())

    assert (len(ran), outcomes) == (1, ["handled", "duplicate"])
    assert topics(harness).count("message.repeated") == 1


def test_a_message_that_comes_late_is_handled_when_it_comes(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran))
    harness.faults.delay("repeater.repeat", 60)
    harness.publish(a_message())

    harness.advance(59)
    assert ran == []
    harness.advance(2)

    assert len(ran) == 1


def test_without_an_advance_a_late_message_does_not_come(harness, a_message):
    harness.add(a_repeater())
    harness.faults.delay("repeater.repeat", 3_600)
    harness.publish(a_message())

    harness.advance(0)

    assert topics(harness) == ["input.message.received"]


def test_waiting_skips_to_a_message_that_comes_late(harness, a_message):
    harness.add(a_repeater())
    harness.faults.delay("repeater.repeat", 3_600)

    harness.send_through(a_message())

    assert topics(harness) == ["input.message.received", "message.repeated"]


def test_an_outcome_is_kept_if_the_acknowledgement_is_lost(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran))
    outcomes = outcomes_of(harness)
    harness.faults.drop_before_ack("repeater.repeat")

    harness.send_through(a_message())

    assert (len(ran), outcomes) == (1, ["handled", "duplicate"])
    assert topics(harness).count("message.repeated") == 1


def test_a_killed_process_leaves_no_event_and_the_delivery_is_handled_again(harness, a_message):
    ran: list[str] = []
    harness.add(a_repeater(ran))
    harness.faults.kill("repeater.repeat")

    harness.send_through(a_message())

    assert len(ran) == 2
    assert topics(harness).count("message.repeated") == 1


def test_a_delivery_that_kills_each_process_ends_as_a_dead_letter(harness, a_message):
    harness.add(a_repeater())
    harness.faults.kill("repeater.repeat", times=20)
    harness.publish(a_message())

    letter = harness.expect_dead_letter()

    assert letter.cause == "poison"
    assert topics(harness).count("message.repeated") == 0


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async_generator"])
def test_every_kind_of_handler_has_faults(harness, a_message, kind):
    agent, ran = Agent("kinds"), []

    @agent.on("input.*")
    async def coroutine(event: Event) -> MessageEvent:
        ran.append("coroutine")
        return event.caused(MessageEvent, event_type="message.coroutine")

    @agent.on("input.*")
    def generator(event: Event) -> Iterator[MessageEvent]:
        ran.append("generator")
        yield event.caused(MessageEvent, event_type="message.generator")

    @agent.on("input.*")
    async def async_generator(event: Event) -> AsyncIterator[MessageEvent]:
        ran.append("async_generator")
        yield event.caused(MessageEvent, event_type="message.async_generator")

    harness.add(agent)
    harness.faults.kill(f"kinds.{kind}")
    harness.faults.fail(f"kinds.{kind}")

    harness.send_through(a_message())

    assert ran.count(kind) == 2
    assert sorted(topics(harness)) == sorted(
        ["input.message.received", "message.coroutine", "message.generator", "message.async_generator"]
    )


def test_a_fault_of_a_subscription_that_does_not_exist_is_refused(harness):
    harness.add(a_repeater())

    with pytest.raises(UsageError, match=r"did you mean 'repeater.repeat'\?"):
        harness.faults.fail("repeater.repaet")


def test_two_harnesses_have_faults_and_time_of_their_own(a_message):
    one_ran: list[str] = []
    other_ran: list[str] = []
    with EventTestHarness([a_repeater(one_ran)]) as one, EventTestHarness([a_repeater(other_ran)]) as other:
        one.faults.kill("repeater.repeat")
        one.advance(timedelta(days=1))
        for harness in (one, other):
            harness.send_event_and_wait(a_message(), "message.repeated")

        assert (len(one_ran), len(other_ran)) == (2, 1)
        assert one.now() - other.now() > timedelta(hours=23)
        assert one.published_events()[0].timestamp - other.published_events()[0].timestamp > timedelta(hours=23)


def test_an_event_as_json_has_the_later_time_too(harness):
    harness.advance(timedelta(days=7))

    harness.bus.publish.run({"event_type": "message.later", "stream_id": "s"})

    assert harness.now() - harness.expect("message.later").timestamp < timedelta(minutes=5)
