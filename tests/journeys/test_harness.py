"""The harness keeps what it promises to those who test with it."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from celery.result import assert_will_not_block  # type: ignore[attr-defined]  # the stubs leave it out

from petiole.events import Event, MessageEvent
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from tests.support.polling import wait_until


def a_repeater() -> Agent:
    agent = Agent("repeater")

    @agent.on("input.*")
    def repeat(event: Event) -> MessageEvent:
        return event.caused(MessageEvent, event_type="message.repeated")

    return agent


def test_the_answer_is_of_the_same_flow(harness, a_message):
    harness.add(a_repeater())
    message = a_message()

    answer = harness.send_event_and_wait(message, "message.repeated")

    assert answer.correlation_id == message.correlation_id


def test_what_was_there_before_the_send_is_not_taken_for_the_answer(harness, a_message):
    harness.add(a_repeater())
    first = harness.send_event_and_wait(a_message(correlation_id="one-flow"), "message.repeated")

    second = harness.send_event_and_wait(a_message(correlation_id="one-flow"), "message.repeated")

    assert second.event_id != first.event_id


def test_the_sent_event_is_not_its_own_answer(harness, a_message):
    with pytest.raises(TimeoutError):
        harness.send_event_and_wait(a_message(), "input.message.received", timeout=0.1)


def test_a_missing_answer_is_told_with_its_type_and_the_limit(harness, a_message):
    with pytest.raises(TimeoutError, match=r"no event of type 'output.message.sent' within 0.2 s"):
        harness.send_event_and_wait(a_message(), "output.message.sent", timeout=0.2)


def test_a_limit_of_zero_does_not_wait(harness):
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        harness.expect("output.message.sent", within=0)

    assert time.monotonic() - began < 5


def test_waiting_twice_needs_two_events(harness, a_message):
    harness.publish(a_message("first"))
    harness.publish(a_message("second"))

    assert harness.expect("input.*").content.text == "first"
    assert harness.expect("input.*").content.text == "second"
    with pytest.raises(TimeoutError):
        harness.expect("input.*", within=0.1)


def test_beside_a_harness_a_test_may_wait_for_celerys_results(harness, a_message):
    harness.send_through(a_message())

    assert_will_not_block()


def test_everything_is_captured_in_the_order_of_publication(harness, a_message):
    sent = [harness.publish(a_message(f"message {number}")).event for number in range(20)]

    assert harness.published_events() == sent


def test_two_harnesses_do_not_hear_each_other(a_message):
    with EventTestHarness([a_repeater()]) as one, EventTestHarness([a_repeater()]) as other:
        one.send_event_and_wait(a_message(), "message.repeated")

        assert other.published_events() == []
        other.send_event_and_wait(a_message(), "message.repeated")
        assert len(one.published_events()) == 2


def test_one_harness_goes_on_when_another_ends(a_message):
    with EventTestHarness([a_repeater()]) as one:
        with EventTestHarness([a_repeater()]) as other:
            one.send_event_and_wait(a_message(), "message.repeated")
            other.send_event_and_wait(a_message(), "message.repeated")

        one.send_event_and_wait(a_message(), "message.repeated")


def test_sending_through_waits_for_all_that_is_set_off(harness, a_message):
    harness.add(a_repeater())

    harness.send_through(a_message())

    assert [event.event_type for event in harness.published_events()] == ["input.message.received", "message.repeated"]


def test_a_closed_harness_leaves_nothing_in_memory(a_message):
    """Otherwise each test of a suite would be slower than the one before."""
    with EventTestHarness([a_repeater()]) as harness:
        harness.send_event_and_wait(a_message(), "message.repeated")
    bus = weakref.ref(harness.bus)
    del harness

    # The thread that looks for cancelled flows ends within a second.
    wait_until(lambda: gc.collect() >= 0 and bus() is None, 20, lambda: "the bus is kept")
