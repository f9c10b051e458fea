"""What the steps of the transport promise about leases, on a real server."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

import petiole.tasks.transport
from petiole.tasks.transport.commands import (
    LeaseTimeouts,
    QueueSource,
    RequeuedMessage,
    TransportCommands,
    TransportKeys,
    Unacked,
)
from petiole.tasks.transport.consumer_id import current_consumer_id, leased_key

KEYS = TransportKeys(
    "unacked", "unacked_index", "unacked\x06\x16leased", "unacked\x06\x16consumers", "unacked\x06\x16undecodable"
)
QUEUE = QueueSource("q", "q\x06\x16wakeup", ["q", "q\x06\x163"], is_acknowledged=True)
LONG = LeaseTimeouts(lease=60, kombu_lease=3600, heartbeat=60)


@pytest.fixture
def server(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url)


@pytest.fixture
def holder(server):
    """Give the steps of a holder by its name."""
    return lambda name: TransportCommands(server, KEYS, name)


def put(server: Any, *tags: str) -> None:
    for tag in tags:
        origin = {"exchange": "", "routing_key": "q"}
        message = {"body": "", "headers": {}, "properties": {"delivery_tag": tag, "delivery_info": origin}}
        server.lpush("q", json.dumps(message))


def give_back(steps: TransportCommands, messages: list[Unacked], silent_before: str = "-inf") -> int:
    to_q = [
        RequeuedMessage(each, [("q", "q\x06\x16wakeup")], json.dumps(json.loads(each.entry)[0])) for each in messages
    ]
    return steps.requeue(to_q, "RPUSH", silent_before)


def take(steps: TransportCommands, count: int = 100) -> list[str]:
    return [taken.tag for taken in steps.fetch([QUEUE], count, [])]


def taken_ago(server: Any, seconds: float, *tags: str) -> None:
    for tag in tags:
        server.zincrby(KEYS.index, -seconds, tag)


def silent_for(server: Any, seconds: float, name: str) -> None:
    now, micros = server.time()
    server.zadd(KEYS.consumers, {name: now + micros / 1e6 - seconds})


def tags(messages: list[Unacked]) -> list[str]:
    return [each.tag for each in messages]


def move_over(server: Any, from_whom: TransportCommands, to_whom: TransportCommands) -> None:
    """Let a message be swept from one holder, and taken by another."""
    silent_for(server, 100, "one")
    silent_before, found = from_whom.find_expired(LONG, 100)
    assert give_back(to_whom, found, silent_before) == len(found) > 0
    assert take(to_whom) == tags(found)


def test_who_takes_a_message_is_recorded_until_it_is_acknowledged(holder, server):
    put(server, "a", "b")

    assert take(holder("one")) == ["a", "b"]
    assert server.hgetall(KEYS.leased) == {b"a": b"one", b"b": b"one"}
    holder("one").fetch([], 0, ["a"])

    assert server.hgetall(KEYS.leased) == {b"b": b"one"}
    assert server.hkeys(KEYS.unacked) == server.zrange(KEYS.index, 0, -1) == [b"b"]


def test_an_ack_of_what_another_holds_by_now_does_nothing(holder, server):
    put(server, "a")
    take(holder("one"))
    move_over(server, holder("one"), holder("two"))

    holder("one").fetch([], 0, ["a"])

    assert server.hgetall(KEYS.leased) == {b"a": b"two"}
    assert server.hlen(KEYS.unacked) == server.zcard(KEYS.index) == 1


def test_what_a_stock_worker_holds_is_not_acknowledged_by_who_lost_it(holder, server):
    put(server, "a")
    take(holder("one"))
    server.hdel(KEYS.leased, "a")

    holder("one").fetch([], 0, ["a"])

    assert server.hlen(KEYS.unacked) == server.zcard(KEYS.index) == 1


def test_what_another_holds_by_now_is_not_given_back(holder, server):
    put(server, "a")
    take(holder("one"))
    move_over(server, holder("one"), holder("two"))

    assert give_back(holder("one"), holder("one").read_unacked(["a"])) == 0
    assert server.llen("q") == 0
    assert server.hgetall(KEYS.leased) == {b"a": b"two"}


def test_what_a_silent_holder_holds_goes_back_and_then_it_is_forgotten(holder, server):
    put(server, "a", "b", "c")
    assert take(holder("one"), 2) == ["a", "b"]
    assert take(holder("two")) == ["c"]
    holder("two").renew([])
    silent_for(server, 100, "one")

    silent_before, found = holder("two").find_expired(LONG, 100)

    assert tags(found) == ["a", "b"]
    assert give_back(holder("two"), found, silent_before) == 2
    assert server.hgetall(KEYS.leased) == {b"c": b"two"}
    assert server.zrange(KEYS.consumers, 0, -1) == [b"one", b"two"], "its messages went back only now"
    assert holder("two").find_expired(LONG, 100)[1] == []
    assert server.zrange(KEYS.consumers, 0, -1) == [b"two"]


def test_a_holder_that_is_heard_of_again_keeps_what_it_holds(holder, server):
    put(server, "a")
    take(holder("one"))
    silent_for(server, 100, "one")
    silent_before, found = holder("two").find_expired(LONG, 100)

    holder("one").renew([])

    assert give_back(holder("two"), found, silent_before) == 0
    assert server.hgetall(KEYS.leased) == {b"a": b"one"}


def test_nobody_is_judged_by_silence_where_that_is_not_asked_for(holder, server):
    put(server, "a")
    take(holder("one"))
    silent_for(server, 100, "one")

    assert holder("two").find_expired(LONG._replace(heartbeat=0), 100)[1] == []
    assert server.zcard(KEYS.consumers) == 1


def test_a_lease_that_is_not_renewed_runs_out_though_its_holder_lives(holder, server):
    put(server, "a", "b")
    take(holder("one"))
    taken_ago(server, 100, "a", "b")

    assert holder("one").renew(["b"]) == []
    silent_before, found = holder("two").find_expired(LONG, 100)

    assert tags(found) == ["a"]
    assert give_back(holder("two"), found, silent_before) == 1
    assert server.hgetall(KEYS.leased) == {b"b": b"one"}


def test_a_lease_that_is_renewed_before_it_is_taken_away_stays(holder, server):
    put(server, "a")
    take(holder("one"))
    taken_ago(server, 100, "a")
    silent_before, found = holder("two").find_expired(LONG, 100)

    holder("one").renew(["a"])

    assert give_back(holder("two"), found, silent_before) == 0


def test_a_lost_lease_is_told_of_and_stays_lost(holder, server):
    put(server, "a", "b")
    take(holder("one"))
    holder("one").fetch([], 0, ["b"])
    move_over(server, holder("one"), holder("two"))
    taken_ago(server, 100, "a")

    assert holder("one").renew(["a", "b", "never taken"]) == ["a", "b", "never taken"]

    assert tags(holder("one").find_expired(LONG, 100)[1]) == ["a"], "the renewal was not its to make"
    assert server.hgetall(KEYS.leased) == {b"a": b"two"}


def test_what_stock_workers_took_goes_back_after_their_own_timeout(holder, server):
    put(server, "a", "b", "c")
    take(holder("stock"))
    server.delete(KEYS.leased)
    taken_ago(server, 100, "a", "b")
    taken_ago(server, 4000, "a")

    silent_before, found = holder("one").find_expired(LONG, 100)

    assert tags(found) == ["a"]
    assert give_back(holder("one"), found, silent_before) == 1


def test_stock_messages_that_wait_do_not_hide_what_is_due(holder, server):
    names = [f"stock {number}" for number in range(1200)]
    put(server, *names)
    take(holder("stock"), 2000)
    server.delete(KEYS.leased)
    taken_ago(server, 200, *names)
    put(server, "due")
    take(holder("one"))
    taken_ago(server, 100, "due")

    assert tags(holder("two").find_expired(LONG, 10)[1]) == ["due"]


def test_a_sweep_is_bounded_and_goes_on_with_the_next(holder, server):
    names = [f"{number:04}" for number in range(1300)]
    put(server, *names)
    take(holder("one"), 2000)
    silent_for(server, 100, "one")
    sizes = []
    while server.hlen(KEYS.leased):
        silent_before, found = holder("two").find_expired(LONG, 600)
        sizes.append(give_back(holder("two"), found[::-1], silent_before))

    assert sizes == [600, 600, 100]
    assert sorted(take(holder("two"), 2000)) == names


def test_what_stock_gave_back_for_a_dead_holder_leaves_no_trace(holder, server):
    put(server, "a", "b")
    take(holder("one"))
    server.hdel(KEYS.unacked, "a", "b")
    server.zrem(KEYS.index, "a")
    silent_for(server, 100, "one")

    holder("two").find_expired(LONG, 100)
    holder("two").find_expired(LONG, 100)

    assert not server.exists(KEYS.leased, KEYS.index, KEYS.consumers)


# The channel


@pytest.fixture
def connect(clean_broker_url):
    opened = []

    def open_connection(**options):
        transport_options = {"unacked_restore_interval": 0.01, "unacked_restore_throttle": 1} | options
        opened.append(
            Connection(
                petiole.tasks.transport.with_transport_prefix(clean_broker_url), transport_options=transport_options
            )
        )
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.release()


def a_channel_that_took(connection, count: int) -> Any:
    channel: Any = connection.channel()
    consumer = Consumer(channel, [Queue("q")], auto_declare=False, on_message=lambda message: None)
    consumer.consume()
    for _ in range(count):
        connection.drain_events(timeout=5)
    return channel


def publish(connection, *bodies, **options):
    with connection.Producer() as producer:
        for body in bodies:
            producer.publish(body, routing_key="q", **options)


def test_nothing_is_written_of_who_holds_what_once_it_is_settled(connect, server):
    connection = connect()
    publish(connection, *range(5))
    channel = a_channel_that_took(connection, 5)
    channel.renew()
    assert set(server.hvals(KEYS.leased)) == {current_consumer_id().encode()}
    assert server.zcard(KEYS.consumers) == 1
    first, second, third, *_ = list(channel.qos._delivered)

    channel.basic_ack(first)
    channel.basic_reject(second, requeue=False)
    channel.basic_reject(third, requeue=True)
    assert server.hlen(KEYS.leased) == 2
    connection.release()

    assert not server.exists(KEYS.unacked, KEYS.index, KEYS.leased, KEYS.consumers)
    assert server.llen("q") == 3


def test_a_task_knows_its_holder_and_nobody_stores_it(connect, server):
    connection = connect(visibility_timeout=0)
    publish(connection, "hello", headers={"task": "a task", "petiole_consumer": "of another, by Celery's retry"})
    assert b"petiole_consumer" not in server.lindex("q", 0)
    channel = a_channel_that_took(connection, 1)

    (message,) = channel.qos._delivered.values()

    assert message.headers == {"task": "a task", "petiole_consumer": current_consumer_id()}
    assert b"petiole_consumer" not in server.hvals(KEYS.unacked)[0]
    message.requeue()
    assert b"petiole_consumer" not in server.lindex("q", 0)


def test_who_was_out_of_touch_judges_nobody_until_the_others_had_time(connect, server, holder, eventually):
    put(server, "a")
    take(holder("one"))
    silent_for(server, 100, "one")
    channel: Any = connect(consumer_timeout=0.2).channel()

    channel.renew()
    channel.requeue_expired()
    assert server.hlen(KEYS.leased) == 1

    def is_swept() -> bool:
        channel.renew()
        channel.requeue_expired()
        return not server.hlen(KEYS.leased)

    eventually(is_swept, 10)
    assert server.llen("q") == 1
    assert channel._contact_at - channel._connected_since >= 0.2


def test_a_server_that_stood_still_makes_nobody_silent(connect, server, holder, eventually, monkeypatch):
    put(server, "a")
    take(holder("one"))
    channel: Any = connect(consumer_timeout=0.2).channel()
    silent_for(server, 0, "one")

    def is_steady() -> bool:
        channel.renew()
        holder("one").renew([])
        return bool(channel._may_expire_others())

    eventually(is_steady, 10)
    answer = channel._commands.find_expired

    def late(*arguments):
        with suppress(redis.exceptions.TimeoutError):
            server.blpop(["nothing"], timeout=0.3)  # as long as the server stands still
        return answer(*arguments)

    monkeypatch.setattr(channel._commands, "find_expired", late)
    channel.requeue_expired()

    assert server.hlen(KEYS.leased) == 1


def test_the_key_of_holders_is_the_same_for_all_who_ask(connect, server):
    channel: Any = connect(global_keyprefix="mine:").channel()

    assert leased_key({"global_keyprefix": "mine:"}) == channel._commands._keys.leased
    assert leased_key({}) == KEYS.leased
