"""What the transport promises about leases: who may move a delivery, and when those of a lost consumer return."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

import petiole.tasks.transport
from petiole.events.event import Event
from petiole.tasks.transport.consumer_id import connection_name, current_process_id
from tests.support.engine import QUEUE, Engine, an_event, event_id_of
from tests.support.polling import wait_until

# The steps


def test_who_takes_a_delivery_is_recorded_until_it_is_acknowledged(engine):
    for _ in range(2):
        engine.publish()
    one = engine.consumer("one")
    first, second = one.fetch(2)
    assert one.tags == [first.tag, second.tag]

    one.fetch(0, [first.tag])

    assert one.tags == [second.tag]
    assert engine.references == 1


def test_deliveries_of_one_event_that_are_fetched_together_bring_the_event_once(engine):
    event = engine.publish(subscriptions=["memory.keep", "memory.learn"])

    first, second = engine.consumer().fetch(2)

    assert {event_id_of(first), event_id_of(second)} == {event.event_id}
    assert engine.references == 2


def test_a_delivery_whose_event_is_missing_is_fetched_without_it(engine):
    engine.publish()
    engine.texts.delete(engine.keys.history)

    assert engine.consumer().fetch_one().event == b""


def test_what_is_taken_without_acknowledgements_has_ended(engine):
    engine.publish(an_event("first"), "a group")
    engine.publish(an_event("second"), "a group")
    one = engine.consumer()

    for _ in range(2):
        (fetched,) = one.fetch(is_leased=False)
        assert fetched.tag == ""

    assert (engine.inside.deliveries(), engine.references, engine.inside.leaks()) == ([], 0, [])


def test_what_another_leases_by_now_is_not_given_back(engine):
    engine.publish()
    one, two = engine.consumer("one"), engine.consumer("two")
    fetched = one.fetch_one()
    engine.expire("one")
    two.fetch_one()

    assert [one.give_back(way, fetched.tag) for way in ("unread", "last", "crashed")] == [0, 0, 0]

    assert two.tags == [fetched.tag]
    assert engine.places() == ["lease"]


def test_a_consumer_that_is_heard_of_again_keeps_what_it_leases(engine):
    engine.publish()
    one, two = engine.consumer("one"), engine.consumer("two")
    one.fetch_one()
    engine.silent_for(100, "one")
    ((name, heartbeat),) = two.commands.renew(50).silent

    one.commands.renew(50)

    assert two.commands.expire(name, heartbeat) == -1
    assert engine.places() == ["lease"]


def test_every_heartbeat_can_be_compared(engine):
    one = engine.consumer("one")
    for _ in range(50):
        ((name, heartbeat),) = one.commands.renew(-1_000).silent

        assert one.commands.expire(name, heartbeat) == 0


def test_of_many_that_expire_a_consumer_one_returns_its_deliveries(engine):
    for _ in range(3):
        engine.publish()
    engine.consumer("one").fetch(3)
    engine.silent_for(100, "one")
    watchers = [engine.consumer(name) for name in ("two", "three")]
    seen = [watcher.commands.renew(50).silent for watcher in watchers]

    answers = [watcher.commands.expire(*rows[0]) for watcher, rows in zip(watchers, seen, strict=True)]

    assert answers == [3, -1]
    assert engine.places() == ["queue"] * 3


def test_a_heartbeat_tells_how_many_leases_the_broker_knows(engine):
    for _ in range(3):
        engine.publish()
    one = engine.consumer("one")
    one.fetch(3)
    assert one.commands.renew(50).leases == 3

    engine.expire("one")

    assert one.commands.renew(50).leases == -1, "it was expired"
    assert one.commands.renew(50).leases == 0


def test_a_consumer_that_was_expired_and_fetches_before_its_next_heartbeat_is_watched(engine):
    one = engine.consumer("one")
    engine.expire("one")
    engine.publish()

    one.fetch()

    assert engine.inside.leaks() == []
    assert engine.expire("one") == 1


def test_a_consumer_that_still_leases_stays_watched_when_it_closes(engine):
    engine.publish()
    one = engine.consumer("one")
    fetched = one.fetch_one()
    one.commands.unregister()
    assert engine.inside.consumers() == 1

    one.settle(fetched)
    one.commands.unregister()

    assert not engine.texts.exists(engine.keys.consumers, engine.keys.consumer_slots("one"))


def test_a_process_that_ends_takes_the_consumers_of_its_lost_connections_along(engine):
    for name in ("mine.1", "mine.2", "other.1"):
        engine.consumer(name).commands.renew(2.5)

    engine.consumer("mine.2").commands.unregister()

    assert engine.texts.zrange(engine.keys.consumers, 0, -1) == ["other.1"]


def test_many_acknowledgements_and_many_deliveries_fit_in_one_fetch(engine):
    count = 2_500
    engine.publish(subscriptions=[f"memory.number_{number}" for number in range(count)])
    one = engine.consumer()
    fetched = one.fetch(count)
    assert len(fetched) == count == engine.references

    one.ack(*(each.tag for each in fetched))

    assert (engine.inside.deliveries(), engine.references) == ([], 0)


# Messages of other Celery clients


def test_a_message_is_leased_like_a_delivery_and_is_handed_over_as_it_was(engine):
    message = engine.send_message(1)
    one = engine.consumer("one")

    fetched = one.fetch_one()

    assert fetched.message == message
    assert engine.inside.unacknowledged() == 1
    one.ack(fetched.tag)
    assert engine.inside.is_idle(QUEUE)


def test_a_message_that_was_not_read_returns_to_the_list_of_other_clients_as_it_was(engine):
    messages = [engine.send_message(number) for number in range(3)]
    one = engine.consumer("one")

    one.give_back("unread", *(each.tag for each in one.fetch(2)))

    assert engine.raw.lrange(QUEUE, 0, -1)[::-1] == messages


def test_a_rejected_message_returns_to_the_end_of_the_list_of_other_clients_as_redelivered(engine):
    for number in range(3):
        engine.send_message(number)
    one = engine.consumer("one")

    one.give_back("last", one.fetch_one().tag)

    *_, last = one.fetch(3)
    assert b'"id": "0", "redelivered": true' in last.message


def test_a_message_of_a_lost_consumer_is_fetched_first_and_as_redelivered(engine):
    for number in range(2):
        engine.send_message(number)
    engine.consumer("one").fetch()
    engine.expire("one")

    first, second = engine.consumer("two").fetch(2)

    assert (b'"id": "0"' in first.message, b'"id": "1"' in second.message) == (True, True)
    assert engine.inside.deliveries()[0].entry.crashes == 0


# The channel


@pytest.fixture
def connect(clean_broker_url):
    opened = []

    def open_connection(**options):
        options = {"unacked_restore_interval": 0.01, "consumer_timeout": 0.4} | options
        url = petiole.tasks.transport.with_transport_prefix(clean_broker_url)
        opened.append(Connection(url, transport_options=options))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.release()


def a_channel_that_took(connection, count: int) -> Any:
    channel: Any = connection.channel()
    consumer = Consumer(channel, [Queue(QUEUE)], auto_declare=False, on_message=lambda message: None)
    consumer.consume()
    for _ in range(count):
        connection.drain_events(timeout=5)
    return channel


def publish_some(engine: Engine, count: int) -> list[Event]:
    return [engine.publish(an_event(str(number))) for number in range(count)]


def test_nothing_is_left_of_leases_once_they_are_settled(connect, server_engine):
    publish_some(server_engine, 5)
    connection = connect()
    channel = a_channel_that_took(connection, 5)
    assert server_engine.inside.consumers() == 1
    first, second, third, *_ = list(channel.qos._delivered)

    channel.basic_ack(first)
    channel.basic_reject(second, requeue=False)
    channel.basic_reject(third, requeue=True)
    assert server_engine.inside.unacknowledged() == 2
    connection.release()

    assert (server_engine.inside.unacknowledged(), server_engine.inside.consumers()) == (0, 0)
    assert server_engine.places() == ["queue"] * 3
    assert server_engine.inside.leaks() == []


def test_a_task_knows_its_consumer_and_nobody_stores_it(connect, server_engine):
    connection = connect(visibility_timeout=0)
    headers = {"task": "a task", "petiole_consumer": "of another, by Celery's retry"}
    with connection.Producer() as producer:
        producer.publish("hello", routing_key=QUEUE, headers=headers)
    assert b"petiole_consumer" not in server_engine.raw.lindex(QUEUE, 0)
    channel = a_channel_that_took(connection, 1)

    (message,) = channel.qos._delivered.values()

    assert message.headers["petiole_consumer"] == channel.consumer_id
    assert "petiole_consumer" not in server_engine.inside.unacknowledged_messages()[0]
    message.requeue()
    assert b"petiole_consumer" not in server_engine.raw.lindex(QUEUE, 0)


def test_two_channels_of_a_process_are_two_consumers(connect, server_engine):
    publish_some(server_engine, 2)
    channels = [a_channel_that_took(connect(), 1) for _ in range(2)]

    assert channels[0].consumer_id != channels[1].consumer_id
    assert server_engine.inside.consumers() == 2
    channels[0].basic_ack(channels[1]._commands.leased_tags()[0])
    assert server_engine.inside.unacknowledged() == 1, "the first one's, under the same tag"


# Lost answers


def test_what_a_lost_answer_brought_is_given_back_by_the_second_heartbeat(connect, server_engine):
    publish_some(server_engine, 3)
    channel = a_channel_that_took(connect(), 1)
    lose_a_fetch(channel, 2)
    assert server_engine.inside.unacknowledged() == 3

    channel.renew()
    assert server_engine.inside.unacknowledged() == 3, "one comparison may be too early"
    channel.renew()

    assert server_engine.places() == ["lease", "queue", "queue"]
    assert [each.entry.crashes for each in server_engine.inside.deliveries()] == [None] * 3


def lose_a_fetch(channel: Any, count: int) -> None:
    source = channel._source(QUEUE)
    first = channel._reserve_tags(count)
    assert len(channel._commands.fetch([source], count, first, [])) == count
    channel.leased.first_tag_sent = None


def test_what_an_outstanding_answer_may_bring_is_not_given_back(connect, server_engine):
    publish_some(server_engine, 1)
    channel = a_channel_that_took(connect(), 0)
    first = channel._reserve_tags(1)
    channel._commands.fetch([channel._source(QUEUE)], 1, first, [])

    for _ in range(3):
        channel.renew()

    assert server_engine.places() == ["lease"]


def test_a_reconnected_consumer_keeps_what_its_slots_run_and_gives_back_the_rest(connect, server_engine):
    publish_some(server_engine, 4)
    before = a_channel_that_took(connect(), 3)
    running, *_ = sorted(before.leased.unsettled, key=int)
    lose_a_fetch(before, 1)
    after = connect().channel()
    after.running_tags = lambda: {running}

    after.take_over(before)
    for _ in range(2):
        after.renew()

    assert after.consumer_id == before.consumer_id
    assert after._commands.leased_tags() == [running]
    assert server_engine.places() == ["lease", "queue", "queue", "queue"]
    after.basic_ack(running)
    after.renew()
    assert server_engine.places() == ["queue"] * 3


def test_acknowledgements_that_were_not_answered_are_sent_again_by_the_next_connection(connect, server_engine):
    publish_some(server_engine, 2)
    before = a_channel_that_took(connect(), 2)
    first, second = sorted(before.leased.unsettled, key=int)
    before.leased.acks_sent, before.leased.unsettled = [first], {second}
    after = connect().channel()

    after.take_over(before)
    after.send_acks()

    assert (server_engine.places(), server_engine.references) == (["queue"], 1)


def test_a_lost_lease_is_forgotten_and_does_not_start(connect, server_engine):
    publish_some(server_engine, 3)
    channel = a_channel_that_took(connect(visibility_timeout=0.3), 1)
    fetched = channel._commands.fetch([channel._source(QUEUE)], 2, channel._reserve_tags(2), [])
    channel._add_to_backlog(fetched)
    server_engine.expire(channel.consumer_id)

    channel.renew()

    assert not channel._backlog
    assert server_engine.places() == ["queue"] * 3
    # What was handed over may be in the middle of its commit.
    assert len(channel.leased_tags()) == 1
    wait_until(lambda: channel.renew() or not channel.leased_tags(), 2)


def test_what_waits_for_longer_than_a_third_of_its_lease_is_confirmed_before_it_starts(connect, server_engine):
    publish_some(server_engine, 1)
    connection = connect(visibility_timeout=0.3)
    channel = a_channel_that_took(connection, 0)
    channel.renew()
    channel._backlog.extend(channel._commands.fetch([channel._source(QUEUE)], 1, channel._reserve_tags(1), []))
    server_engine.expire(channel.consumer_id)
    channel.confirmed_at -= 0.2

    assert not channel.deliver_backlog()
    assert channel.leased_tags() == []


# Death


def lose_a_consumer(engine: Engine) -> None:
    """Let a consumer of another process lease one delivery and be silent for 5 s."""
    engine.publish()
    engine.consumer("lost.1").fetch_one()
    engine.silent_for(5, "lost.1")


@pytest.fixture
def lost(server_engine):
    lose_a_consumer(server_engine)
    return server_engine


def stay_in_touch(channel: Any, eventually: Any) -> None:
    """Let a channel send heartbeats until it may consider others lost, and once more."""

    def is_steady():
        channel.renew()
        return channel._is_steady()

    eventually(is_steady, 10)
    channel.renew()


def test_a_lost_consumer_without_a_connection_is_expired_at_once(connect, lost, eventually):
    channel: Any = connect(visibility_timeout=3_600).channel()

    stay_in_touch(channel, eventually)

    assert lost.places() == ["queue"]


def test_a_lost_consumer_with_a_connection_is_expired_after_the_visibility_timeout(
    connect, lost, eventually, clean_broker_url
):
    assert connection_name() == f"petiole-{current_process_id()}"
    with redis.Redis.from_url(clean_broker_url, client_name="petiole-lost") as stopped:
        stopped.ping()
        for visibility_timeout, place in ((3_600, "lease"), (4, "queue")):
            stay_in_touch(connect(visibility_timeout=visibility_timeout).channel(), eventually)

            assert lost.places() == [place]


def test_a_lost_consumer_is_expired_after_the_visibility_timeout_where_connections_cannot_be_listed(
    connect, lost, eventually
):
    lost.raw.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["-client|list"])
    try:
        for visibility_timeout, place in ((3_600, "lease"), (4, "queue")):
            stay_in_touch(connect(visibility_timeout=visibility_timeout).channel(), eventually)

            assert lost.places() == [place]
    finally:
        lost.raw.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])


def test_who_was_out_of_touch_judges_nobody_until_the_others_had_time(connect, server_engine, eventually):
    channel: Any = connect().channel()
    stay_in_touch(channel, eventually)
    lose_a_consumer(server_engine)
    channel._contact_at -= 10

    for _ in range(3):
        channel.renew()

    assert server_engine.places() == ["lease"]
    stay_in_touch(channel, eventually)
    assert server_engine.places() == ["queue"]


def test_a_server_that_stood_still_makes_nobody_lost(connect, server_engine, eventually, monkeypatch):
    channel: Any = connect().channel()
    stay_in_touch(channel, eventually)
    lose_a_consumer(server_engine)
    answer = channel._commands.renew

    def late(*arguments):
        with suppress(redis.exceptions.TimeoutError):
            server_engine.raw.blpop(["nothing"], timeout=0.5)  # as long as the server stands still
        return answer(*arguments)

    monkeypatch.setattr(channel._commands, "renew", late)
    for _ in range(3):
        channel.renew()

    assert server_engine.places() == ["lease"]


def test_a_consumer_outside_a_worker_takes_over_from_lost_ones(connect, lost):
    connection = connect(visibility_timeout=3_600)
    taken: list[Any] = []
    channel = connection.channel()
    Consumer(channel, [Queue(QUEUE)], auto_declare=False, on_message=taken.append).consume()

    for _ in range(50):
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        if taken:
            break

    assert [message.delivery_info["redelivered"] for message in taken] == [True]
