"""What either transport promises of messages."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from tests.contracts.transports.connections import Inbox, bodies, held, publish


@pytest.fixture
def connect(url):
    """Open connections; they are closed with the test."""
    opened = []

    def open_connection(**options):
        opened.append(Connection(url, transport_options={"unacked_restore_throttle": 1} | options))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.release()


def test_what_is_published_is_consumed_in_order(connect):
    for number in range(10):
        publish(connect(), {"number": number})

    messages = Inbox(connect(), "q").drain(10)

    assert bodies(messages) == [{"number": number} for number in range(10)]


def test_a_batch_is_consumed_in_order(connect):
    connection = connect()
    with connection.Producer() as producer, producer.batch(max_size=4):
        for number in range(10):
            producer.publish(number, routing_key="q")

    assert bodies(Inbox(connect(), "q").drain(10)) == list(range(10))


def test_an_acknowledged_message_is_gone(connect, server):
    publish(connect(), "hello")
    inbox = Inbox(connect(), "q")
    (message,) = inbox.drain(1)
    assert held(server) == 1

    message.ack()

    assert held(server) == 0
    inbox.connection.release()
    assert server.llen("q") == 0


def test_a_rejected_message_is_gone(connect, server):
    publish(connect(), "hello")
    (message,) = Inbox(connect(), "q").drain(1)

    message.reject()

    assert held(server) == 0
    assert server.llen("q") == 0


def test_a_requeued_message_comes_back_as_redelivered(connect, server):
    publish(connect(), "hello")
    inbox = Inbox(connect(), "q")
    (message,) = inbox.drain(1)
    assert "redelivered" not in message.delivery_info

    message.requeue()
    (again,) = inbox.drain(1)

    assert again.decode() == "hello"
    assert again.delivery_info["redelivered"] is True
    assert again.headers["redelivered"] is True
    assert held(server) == 1


def test_a_requeued_message_goes_to_the_end_of_its_queue(connect):
    for number in range(3):
        publish(connect(), number)
    inbox = Inbox(connect(), "q", prefetch=1)
    (first,) = inbox.drain(1)

    first.requeue()
    order = []
    for _ in range(3):
        (message,) = inbox.drain(1)
        order.append(message.decode())
        message.ack()

    assert order == [1, 2, 0]


def test_the_most_urgent_comes_first_over_all_queues(connect):
    for priority in (9, 6, 3, 0):
        for queue in ("a", "b"):
            publish(connect(), priority, queue, priority=priority)

    messages = Inbox(connect(), "a", "b").drain(8)

    assert bodies(messages) == [0, 0, 3, 3, 6, 6, 9, 9]


def test_no_more_is_handed_over_than_was_asked_for(connect, server):
    for number in range(10):
        publish(connect(), number)
    inbox = Inbox(connect(), "q", prefetch=3)

    messages = inbox.drain(3)

    assert inbox.hears_nothing()
    assert server.llen("q") == 7
    for message in messages:
        message.ack()
    assert bodies(inbox.drain(3)) == [3, 4, 5]


def test_what_is_not_settled_goes_back_when_its_connection_closes(connect, server):
    for number in range(5):
        publish(connect(), number)
    inbox = Inbox(connect(), "q", prefetch=5)
    inbox.drain(3)[0].ack()

    inbox.connection.release()

    assert held(server) == 0
    assert server.llen("q") == 4
    assert sorted(bodies(Inbox(connect(), "q").drain(4))) == [1, 2, 3, 4]


def test_what_is_held_longer_than_the_visibility_timeout_is_taken_by_others(connect):
    publish(connect(), "hello")
    Inbox(connect(), "q").drain(1)
    other = Inbox(connect(visibility_timeout=0.2, unacked_restore_interval=0.1), "q")

    for _ in range(100):
        with suppress(TimeoutError):
            other.connection.drain_events(timeout=0.1)
            break

    assert bodies(other.messages) == ["hello"]
    assert other.messages[0].delivery_info["redelivered"] is True


def test_a_purge_empties_every_priority(connect, server):
    for priority in (0, 3, 6, 9):
        publish(connect(), "hello", priority=priority)

    assert connect().channel().queue_purge("q") == 4
    assert Inbox(connect(), "q").hears_nothing()


def test_a_declaration_tells_how_many_wait(connect):
    for priority in (0, 3, 6):
        publish(connect(), "hello", priority=priority)

    declared: Any = Queue("q", channel=connect().channel()).queue_declare(passive=True)

    assert declared.message_count == 3


def test_a_busy_queue_does_not_hold_up_another(connect):
    for number in range(50):
        publish(connect(), number, "busy")
    for number in range(3):
        publish(connect(), f"rare {number}", "rare")

    messages = Inbox(connect(), "busy", "rare", prefetch=10).drain(10)

    assert len([each for each in bodies(messages) if str(each).startswith("rare")]) == 3


def test_a_large_message_with_binary_headers_arrives_as_it_was_sent(connect):
    body, header = b"\x00\xff" * 2_000_000, {"nested": {"empty": [], "text": "\u0000ümläut", "delivery_tag": "x"}}
    publish(connect(), body, headers=header, content_type="application/data", content_encoding="binary")

    (message,) = Inbox(connect(), "q").drain(1)

    assert message.body == body
    assert message.headers == header


def test_a_message_that_was_held_is_given_back_with_every_detail(connect):
    header = {"empty list": [], "empty object": {}, "large": 2**62, "share": 0.1, "text": 'quote " and \\ ü'}
    publish(connect(), {"list": []}, headers=header, priority=6)
    inbox = Inbox(connect(), "q")
    (message,) = inbox.drain(1)

    message.requeue()
    (again,) = inbox.drain(1)

    assert again.headers == header | {"redelivered": True}
    assert again.decode() == {"list": []}
    assert again.properties["priority"] == 6


def test_a_message_of_a_named_exchange_goes_back_to_its_queue(connect, server):
    queue = Queue("q", Exchange("shop", "topic"), "order.#")
    connection = connect()
    queue(connection.channel()).declare()
    with connection.Producer() as producer:
        producer.publish("hello", exchange="shop", routing_key="order.placed", declare=[queue])
    inbox = Inbox(connection, queue)
    inbox.drain(1)

    inbox.channel.close()

    assert server.llen("q") == 1


def test_one_message_can_be_got_by_hand(connect, server):
    publish(connect(), "hello")
    channel = connect().channel()

    message = channel.basic_get("q")

    assert held(server) == 1
    assert channel.basic_get("q") is None
    message.ack()
    assert held(server) == 0


def test_what_is_consumed_without_acks_is_not_recorded(connect, server):
    for number in range(3):
        publish(connect(), number)

    assert bodies(Inbox(connect(), "q", no_ack=True).drain(2)) == [0, 1]
    assert held(server) == 0
    assert server.llen("q") == 1, "nobody could give it back"


def test_a_simple_queue_works(connect):
    with connect().SimpleQueue("q") as queue:
        queue.put({"hello": "world"})

        message = queue.get(timeout=5)

        assert message.payload == {"hello": "world"}
        message.ack()
        with pytest.raises(Empty):
            queue.get(timeout=0.1)


def test_a_fanout_reaches_everybody_who_listens(connect):
    exchange = Exchange("news", "fanout")
    listeners = []
    for name in ("one", "two"):
        connection = connect()
        queue = Queue(name, exchange, exclusive=True)
        queue(connection.channel()).declare()
        listeners.append(Inbox(connection, queue, no_ack=True))
    for listener in listeners:
        assert listener.hears_nothing()
    connection = connect()
    with connection.Producer() as producer:
        producer.publish("hello", exchange=exchange, declare=[exchange])

    assert [bodies(listener.drain(1)) for listener in listeners] == [["hello"], ["hello"]]


def test_a_cancelled_consumer_leaves_the_rest_to_others(connect, server):
    for number in range(10):
        publish(connect(), number)
    inbox = Inbox(connect(), "q", prefetch=5)
    (first,) = inbox.drain(1)
    inbox.consumer.cancel()
    first.ack()

    assert bodies(Inbox(connect(), "q").drain(9)) == list(range(1, 10))


def test_a_key_prefix_holds_for_every_key(connect, server):
    for number in range(4):
        publish(connect(global_keyprefix="mine:"), number, priority=3 * (number % 2))
    inbox = Inbox(connect(global_keyprefix="mine:"), "q")
    messages = inbox.drain(3)
    messages[0].ack()
    messages[1].requeue()
    assert held(server, "mine:") == 1

    inbox.connection.release()

    assert held(server, "mine:") == 0
    assert server.llen("mine:q") + server.llen("mine:q\x06\x163") == 3
    assert all(key.startswith(b"mine:") for key in server.scan_iter())
