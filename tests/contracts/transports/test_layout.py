"""Both transports share queues: each reads what the other writes."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest
from kombu import Connection

import petiole.tasks.transport
from tests.contracts.transports.connections import OURS, STOCK, WORKER, Inbox, bodies, held, publish

COUNTING = """
import os
import redis
import petiole.tasks.transport
from celery import Celery

app = Celery("counting", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=16, task_default_queue="shared"
)
handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])

@app.task(name="count")
def count(name):
    handled.hincrby("handled", name, 1)
"""


SEND = """
from counting import count
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
        node.run(SEND.format(count=300, name=name))

    eventually(lambda: server.hlen("handled") == 600, 40, node.logs)
    assert set(server.hvals("handled")) == {b"1"}
    eventually(lambda: held(server) == 0, 5)


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


def test_what_was_not_read_returns_as_it_was(clean_broker_url, server):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        publish(connection, {"empty": []}, headers={"id": str(uuid.uuid4()), "none": [], "object": {}})
        before = server.lrange("q", 0, -1)
        Inbox(connection, "q").drain(1)
        assert not server.exists("q")

    assert server.lrange("q", 0, -1) == before


def test_what_ours_rejects_is_read_by_stock_as_redelivered(clean_broker_url, server):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        publish(connection, {"empty": []}, headers={"none": [], "object": {}})
        (message,) = Inbox(connection, "q").drain(1)
        message.requeue()

    with Connection(clean_broker_url) as stock:
        (message,) = Inbox(stock, "q").drain(1)

        assert (message.decode(), message.delivery_info["redelivered"]) == ({"empty": []}, True)
        assert message.headers == {"none": [], "object": {}, "redelivered": True}
