"""What a transport promises, held by kombu's own for Redis and by ours; and both of them on the same queues."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from queue import Empty
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import OperationalError

import petiole.tasks.transport

STOCK, OURS = "stock", "ours"


@pytest.fixture(params=[STOCK, OURS])
def url(request, clean_broker_url):
    """Give the URL of a real server, by each transport."""
    return {STOCK: clean_broker_url, OURS: petiole.tasks.transport.with_transport_prefix(clean_broker_url)}[
        request.param
    ]


@pytest.fixture
def server(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url)


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


class Inbox:
    """A consumer that keeps what it is handed."""

    def __init__(self, connection, *queues, prefetch=0, **options):
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self.consumer = Consumer(
            self.channel,
            [queue if isinstance(queue, Queue) else Queue(queue) for queue in queues],
            on_message=self.messages.append,
            prefetch_count=prefetch or None,
            auto_declare=False,
            **options,
        )
        self.consumer.consume()

    def drain(self, count, within=5.0):
        """Wait for so many messages more."""
        wanted = len(self.messages) + count
        while len(self.messages) < wanted:
            self.connection.drain_events(timeout=within)
        return self.messages[-count:]

    def hears_nothing(self, for_s=0.3):
        before = len(self.messages)
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=for_s)
        return len(self.messages) == before


def publish(connection, body, queue="q", **options):
    with connection.Producer() as producer:
        producer.publish(body, routing_key=queue, **options)


def bodies(messages):
    return [message.decode() for message in messages]


def held(server):
    return server.hlen("unacked"), server.zcard("unacked_index")


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
    assert held(server) == (1, 1)

    message.ack()

    assert held(server) == (0, 0)
    inbox.connection.release()
    assert server.llen("q") == 0


def test_a_rejected_message_is_gone(connect, server):
    publish(connect(), "hello")
    (message,) = Inbox(connect(), "q").drain(1)

    message.reject()

    assert held(server) == (0, 0)
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
    assert held(server) == (1, 1)


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

    assert held(server) == (0, 0)
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

    assert held(server) == (1, 1)
    assert channel.basic_get("q") is None
    message.ack()
    assert held(server) == (0, 0)


def test_what_is_consumed_without_acks_is_not_recorded(connect, server):
    for number in range(3):
        publish(connect(), number)

    assert bodies(Inbox(connect(), "q", no_ack=True).drain(2)) == [0, 1]
    assert held(server) == (0, 0)
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
    assert server.hlen("mine:unacked") == 1

    inbox.connection.release()

    assert server.hlen("mine:unacked") == 0
    assert server.llen("mine:q") + server.llen("mine:q\x06\x163") == 3
    assert all(key.startswith(b"mine:") for key in server.scan_iter())


def test_a_result_comes_back_by_rpc(url, node, clean_broker_url):
    app = Celery("client", broker=url, backend="rpc://")
    node.module("answering", ANSWERING.format(url=url))
    node.start(*WORKER.format(app="answering").split(), "-P", "solo")

    answer = app.send_task("double", args=[21])

    assert answer.get(timeout=30) == 42


def test_a_worker_answers_remote_control(url, node, eventually):
    app = Celery("client", broker=url)
    node.module("answering", ANSWERING.format(url=url))
    node.start(*WORKER.format(app="answering").split(), *["-n", "w@h", "-P", "threads", "-c", "2", "-E"])
    eventually(lambda: "ready." in node.logs(), 30, node.logs)

    assert app.control.ping(timeout=10, limit=1) == [{"w@h": {"ok": "pong"}}]
    assert app.control.inspect(timeout=10, limit=1).registered() == {"w@h": ["double"]}
    assert app.control.add_consumer("more", reply=True, timeout=10, limit=1)
    assert app.send_task("double", args=[1], queue="more").id
    assert app.control.shutdown() is None
    assert node.processes[-1].wait(timeout=20) == 0


WORKER = "celery -A {app} worker -l INFO --without-mingle"

ANSWERING = """
import petiole.tasks.transport
from celery import Celery

bus = Celery("answering", broker={url!r}, backend="rpc://")
bus.app.conf.update(task_acks_late=True)

@bus.task(name="double")
def double(number):
    return 2 * number
"""

COUNTING = """
import os
import redis
import petiole.tasks.transport
from celery import Celery

bus = Celery("counting", broker=os.environ["BROKER"])
bus.app.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=16, task_default_queue="shared"
)
handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])

@bus.task(name="count")
def count(name):
    handled.hincrby("handled", name, 1)
"""

SEND = """
from counting import bus, count
for number in range({count}):
    count.apply_async((f"{name} {{number}}",), priority=number % 10)
"""


def test_stock_and_ours_share_queues_and_every_message_is_handled_once(node, server, clean_broker_url, eventually):
    node.module("counting", COUNTING)
    brokers = {STOCK: clean_broker_url, OURS: petiole.tasks.transport.with_transport_prefix(clean_broker_url)}
    for broker in brokers.values():
        node.environment["BROKER"] = broker
        node.start(*WORKER.format(app="counting").split(), "-P", "solo", "-n", f"{len(broker)}@h")
    eventually(lambda: node.logs().count("ready.") == 2, 30, node.logs)

    for name, broker in brokers.items():
        node.environment["BROKER"] = broker
        node.run(SEND.format(count=1000, name=name))

    eventually(lambda: server.hlen("handled") == 2000, 40, node.logs)
    assert set(server.hvals("handled")) == {b"1"}
    eventually(lambda: held(server) == (0, 0), 5)


@pytest.mark.parametrize(("publisher", "consumer"), [(STOCK, OURS), (OURS, STOCK)])
def test_each_reads_what_the_other_writes(publisher, consumer, clean_broker_url, server):
    urls = {STOCK: clean_broker_url, OURS: petiole.tasks.transport.with_transport_prefix(clean_broker_url)}
    with Connection(urls[publisher]) as sending, Connection(urls[consumer]) as receiving:
        for number in range(100):
            publish(sending, number)
        inbox = Inbox(receiving, "q", prefetch=100)
        messages = inbox.drain(100)
        assert sorted(bodies(messages)) == list(range(100))
        for message in messages[:50]:
            message.ack()

    with Connection(urls[publisher]) as back:
        assert len(Inbox(back, "q").drain(50)) == 50


def test_what_a_dead_stock_consumer_held_is_given_back_by_ours(clean_broker_url, server, eventually):
    with Connection(clean_broker_url) as sending:
        for number in range(250):
            publish(sending, number)
    options = {"stock_visibility_timeout": 1, "unacked_restore_interval": 0.1, "unacked_restore_throttle": 1}
    dead = Inbox(Connection(clean_broker_url), "q")
    dead.drain(250)
    dead.channel.qos.restore_at_shutdown = False
    eventually(lambda: server.zcount("unacked_index", "-inf", time.time() - 1) == 250, 5)
    ours = Inbox(
        Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url), transport_options=options), "q"
    )
    handled: Counter[int] = Counter()
    for _ in range(1000):
        with suppress(TimeoutError):
            ours.connection.drain_events(timeout=0.1)
        if len(ours.messages) == handled.total():
            continue
        message = ours.messages[-1]
        handled[message.decode()] += 1
        message.ack()
        if len(handled) == 250:
            break

    assert len(handled) == 250
    order = [message.decode() for message in ours.messages]
    assert all(earlier < later for earlier, later in pairwise(order)), "oldest first"
    ours.connection.release()


def test_bytes_that_are_no_message_are_kept_and_the_next_is_delivered(clean_broker_url, server):
    garbage = [b"\x00\xff", b"{}", b"[]", b"null", b'{"properties": {"delivery_tag": 5, "delivery_info": {}}}', b""]
    server.lpush("q", *garbage)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        publish(connection, "hello")

        (message,) = Inbox(connection, "q").drain(1)

        assert message.decode() == "hello"
    kept = server.lrange("unacked\x06\x16undecodable", 0, -1)
    assert kept == [b"q\x06\x16wakeup\n" + each for each in garbage], "each below the name of its queue's bell"


def test_a_script_that_the_server_forgot_is_loaded_again(clean_broker_url, server):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        inbox = Inbox(connection, "q")
        publish(connection, 1)
        inbox.drain(1)
        server.script_flush()
        publish(connection, 2)

        assert bodies(inbox.drain(1)) == [2]


def test_a_message_wakes_who_waits_at_once(clean_broker_url, monkeypatch):
    monkeypatch.setattr("petiole.tasks.transport.transport.Transport.brpop_timeout", 30)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as waiting:
        inbox = Inbox(waiting, "q")
        assert inbox.hears_nothing()
        with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as sending:
            publish(sending, "hello")

        assert bodies(inbox.drain(1, within=5)) == ["hello"]


@pytest.mark.parametrize(
    ("address", "hostname", "port", "database", "is_tls"),
    [
        ("petiole+redis://:secret@somewhere:7000/3", "somewhere", 7000, "3", False),
        ("petiole+rediss://somewhere:7000/3?ssl_cert_reqs=none", "somewhere", 7000, "3", True),
        ("petiole+socket:///var/run/valkey.sock", "socket:///var/run/valkey.sock", None, "/", False),
        ("petiole+sentinel://one:26379/1;petiole+sentinel://two:26379/1", "one", 26379, "1", False),
    ],
)
def test_an_address_is_read_as_kombu_reads_it(address, hostname, port, database, is_tls):
    connection: Any = Connection(address)
    read = connection.transport.address.client

    assert (read.hostname, read.port, read.virtual_host) == (hostname, port, database or read.virtual_host)
    assert bool(read.ssl) is is_tls
    assert "secret" not in connection.as_uri()
    assert connection.as_uri().startswith("petiole+")
    assert connection.clone().transport.address.client.hostname == hostname
    assert connection.transport.driver_type == "redis"


def test_kombu_fails_over_to_the_next_address(clean_broker_url):
    connection = Connection(petiole.tasks.transport.with_transport_prefix(f"redis://127.0.0.1:1/0;{clean_broker_url}"))

    connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)

    assert type(connection.transport).__module__ == "petiole.tasks.transport.transport"
    with connection.clone() as clone:
        publish(clone, "hello")
    connection.release()


def test_a_broker_that_is_not_there_is_an_operational_error():
    with Connection("petiole+redis://127.0.0.1:1/0") as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def test_messages_keep_the_layout_of_kombu(clean_broker_url, server):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        publish(connection, {"empty": []}, headers={"id": str(uuid.uuid4()), "none": [], "object": {}})
        (raw,) = server.lrange("q", 0, -1)
        Inbox(connection, "q").drain(1)

        (entry,) = server.hvals("unacked")

        assert json.loads(entry) == [json.loads(raw), "", "q"]
        assert entry == b"[" + raw + b', "", "q"]', "moved as it was"
