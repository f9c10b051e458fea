"""Connections over kombu's transport and ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kombu import Consumer, Queue

STOCK, OURS = "stock", "ours"


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


def held(server, prefix=""):
    """Count what consumers took and did not settle, by stock consumers and by ours."""
    stock = server.hlen(f"{prefix}unacked")
    assert server.zcard(f"{prefix}unacked_index") == stock
    return stock + sum(server.hlen(name) for name in server.scan_iter(f"{prefix}petiole:consumers:*"))


WORKER = "celery -A {app} worker -l INFO --without-mingle"
