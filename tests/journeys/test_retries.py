"""Retries and the waiting room: with the harness, where waiting takes no time, and with real workers, where it does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from petiole.events import Event, MessageEvent
from petiole.events.errors import InvalidSchedule, RetryLater
from petiole.tasks import Agent, Context, RetryPolicy, later, publish

# Harness


def failing(times: int, error: Exception, **options: Any) -> tuple[Agent, list[int]]:
    """Make an agent that fails so many times before it answers, and the list of its attempts."""
    agent, attempts = Agent("shaky"), []

    @agent.on("input.*", **options)
    def act(event: Event, context: Context) -> MessageEvent:
        attempts.append(context.attempt)
        if len(attempts) <= times:
            raise error
        return event.caused(MessageEvent, event_type="message.done", content={})

    return agent, attempts


def test_a_handler_that_fails_twice_is_run_a_third_time(harness, a_message):
    agent, attempts = failing(2, RuntimeError("not yet"))
    harness.add(agent)

    harness.send_event_and_wait(a_message(), "message.done")

    assert attempts == [1, 2, 3]
    assert harness.dead_letters() == []


def test_a_dead_letter_holds_every_attempt_with_its_time_its_worker_and_its_error(harness, a_message):
    agent, attempts = failing(9, RuntimeError("the disk is full"))
    harness.add(agent)
    harness.publish(a_message())

    letter = harness.expect_dead_letter()

    assert attempts == [1, 2, 3]
    assert [(each.error_type, each.error) for each in letter.attempts] == [("RuntimeError", "the disk is full")] * 3
    assert all(each.worker for each in letter.attempts)
    assert sorted(each.at for each in letter.attempts) == [each.at for each in letter.attempts]
    assert letter.cause == "failed"


def test_all_that_fail_in_one_way_have_one_fingerprint(harness, a_message):
    agent = Agent("broken")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1))
    def act(event: Event) -> None:
        if event.stream_id == "other":
            json.loads("no json")
        raise RuntimeError(event.stream_id)

    harness.add(agent)
    for stream_id in ("one", "two", "other"):
        harness.send_through(a_message(stream_id=stream_id))

    one, two, other = (letter.fingerprint for letter in harness.dead_letters())
    assert one == two != other


def test_what_a_failed_attempt_said_is_not_published_and_what_the_last_said_is_once(harness, a_message):
    agent, runs = Agent("talker"), []

    @agent.on("input.*")
    def say(event: Event) -> list[MessageEvent]:
        publish(event.caused(MessageEvent, event_type="message.held", content={}))
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("not yet")
        return [event.caused(MessageEvent, event_type="message.returned", content={})]

    harness.add(agent)
    events = harness.send_through(a_message())

    assert [event.event_type for event in events] == ["input.message.received", "message.held", "message.returned"]


@pytest.mark.parametrize("asks", ["raises", "returns"])
def test_who_asks_for_later_is_asked_again_as_often_as_it_takes(harness, a_message, asks):
    agent, attempts = Agent("patient"), []

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1))
    def act(event: Event, context: Context) -> object:
        attempts.append(context.attempt)
        if len(attempts) > 5:
            return event.caused(MessageEvent, event_type="message.done", content={})
        if asks == "raises":
            raise RetryLater("the model is busy", 60)
        return later(timedelta(minutes=1))

    harness.add(agent)
    harness.send_event_and_wait(a_message(), "message.done")

    assert attempts == [1] * 6


@pytest.fixture
def heard(harness) -> list[str]:
    """Give the ids of the events that an agent has heard."""
    agent, heard = Agent("test"), list[str]()

    @agent.on("input.*")
    def hear(event: Event) -> None:
        heard.append(event.event_id)

    harness.add(agent)
    return heard


def test_an_event_is_published_at_its_time_to_whoever_hears_it_then(harness, heard, a_message):
    message = a_message()

    published = harness.publish(message, delay=3600)

    assert published.due is not None
    assert heard == []
    assert harness.expect("input.message.received").event_id == message.event_id
    harness.send_through(a_message())
    assert message.event_id in heard


def test_a_delay_of_thirty_days_is_one_run_at_its_time(harness, heard, a_message):
    message = a_message()
    harness.publish(message, delay=timedelta(days=30))

    harness.advance(timedelta(days=30, seconds=-5))
    assert heard == []
    harness.advance(10)
    assert heard == [message.event_id]
    harness.advance(timedelta(days=60))
    assert heard == [message.event_id]


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": "soon"},
        {"delay": 1, "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
        {"at": "tomorrow"},
        {"delay": timedelta(days=400)},
    ],
    ids=str,
)
def test_a_time_that_cannot_be_is_refused_where_it_is_said(a_message, options):
    for say in (publish, publish.delay):
        with pytest.raises(InvalidSchedule):
            say(a_message(), **options)


# Real workers

SHAKY = """
import os, time
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context, RetryPolicy

noted = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("shaky")

@agent.on("message.fails")
def fail(event: Event) -> None:
    noted.rpush("runs", time.time())
    raise RuntimeError("no")

@agent.on("message.fails_twice", retry=RetryPolicy(max_attempts=2, base=5))
def fail_late(event: Event) -> None:
    noted.rpush("runs", time.time())
    raise RuntimeError("no")

@agent.on("message.fine")
def answer(event: Event) -> None:
    noted.rpush("fine", time.time())

@agent.on("message.ordered", ordered=True, retry=RetryPolicy(base=0.2))
def in_turn(event: Event, context: Context) -> None:
    noted.rpush("turns", event.content.parameters["number"])
    if event.content.parameters["number"] == "0" and context.attempt < 3:
        raise RuntimeError("not yet")

@agent.on("message.kills")
def kill(event: Event) -> None:
    noted.rpush("kills", os.getpid())
    os._exit(1)
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish
for number in range({count}):
    content = {{"parameters": {{"number": str(number)}}}}
    {publish}(MessageEvent(event_type={topic!r}, stream_id="s", content=content){options})
"""


@pytest.fixture
def shaky(node):
    node.module("agent_shaky", SHAKY)
    node.environment["PETIOLE_AGENTS"] = "agent_shaky"
    return node


def say(node, topic, count=1, options="", by="publish"):
    node.run(PUBLISH.format(topic=topic, count=count, options=options, publish=by))


def test_a_failing_handler_runs_at_0_1_and_3_s_and_its_slot_is_free_meanwhile(shaky, client, inside, eventually):
    shaky.worker("one")
    shaky.run("""
from petiole.events import MessageEvent
from petiole.tasks import publish
publish(MessageEvent(event_type="message.fails", stream_id="s", content={}))
publish(MessageEvent(event_type="message.fine", stream_id="s", content={}), delay=0.5)
""")

    eventually(lambda: len(inside.dead_letters()) == 1, 20, shaky.logs)
    eventually(lambda: client.llen("fine") == 1, 5, shaky.logs)

    first, second, third = (float(each) for each in client.lrange("runs", 0, -1))
    assert 0.85 < second - first < 2.5
    assert 1.7 < third - second < 4
    (fine,) = (float(each) for each in client.lrange("fine", 0, -1))
    assert fine < third
    (letter,) = inside.dead_letters()
    assert (letter.cause, len(letter.attempts)) == ("failed", 3)
    assert inside.delayed() == 0


def test_a_retry_comes_although_all_workers_were_killed_while_it_waited(shaky, client, inside, eventually):
    worker = shaky.worker("one")
    say(shaky, "message.fails_twice")
    eventually(lambda: inside.delayed() == 1, 10, shaky.logs)
    worker.kill()
    worker.wait(timeout=10)

    shaky.worker("two")

    eventually(lambda: len(inside.dead_letters()) == 1, 30, shaky.logs)
    assert client.llen("runs") == 2


def test_a_failing_head_is_tried_again_before_its_mailbox_goes_on(shaky, client, eventually):
    shaky.worker("one")
    say(shaky, "message.ordered", count=3)

    eventually(lambda: client.llen("turns") == 5, 20, shaky.logs)
    assert client.lrange("turns", 0, -1) == ["0", "0", "0", "1", "2"]


def test_an_event_that_kills_its_worker_three_times_is_poison_and_others_go_on(shaky, client, inside, eventually):
    shaky.worker("one", "--pool", "prefork", "-c", "1")
    say(shaky, "message.kills")
    say(shaky, "message.fine")

    eventually(lambda: len(inside.dead_letters()) == 1, 30, shaky.logs)
    eventually(lambda: client.llen("fine") == 1, 10, shaky.logs)
    assert client.llen("kills") == 3
    (letter,) = inside.dead_letters()
    assert (letter.cause, letter.error_type, len(letter.attempts)) == ("poison", "DeliveryCrashed", 3)


def test_an_event_for_later_waits_with_the_broker_and_is_published_in_time(shaky, client, inside, eventually):
    shaky.worker("one")

    for number, by in enumerate(("publish", "publish.delay"), 1):
        asked_at = time.time()
        say(shaky, "message.fine", options=", delay=1.5", by=by)
        say(shaky, "message.fine", options=", delay=3600", by=by)

        eventually(lambda number=number: client.llen("fine") == number, 10, shaky.logs)
        assert float(client.lindex("fine", -1)) - asked_at > 1.5
        eventually(lambda number=number: inside.delayed() == number, 10, shaky.logs)
