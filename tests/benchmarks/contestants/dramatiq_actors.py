"""Dramatiq on Redis: an actor with a queue of its own for each subscriber. Only the one of requests stores results."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.document import Measured, build_document

_URL = os.environ["BENCH_BROKER_URL"]


class _ReadyReport(dramatiq.Middleware):
    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        counters.report_ready()


broker = RedisBroker(url=_URL)
broker.add_middleware(Results(backend=RedisBackend(url=_URL)))
broker.add_middleware(_ReadyReport())
dramatiq.set_broker(broker)


def _define_actor(subscriber: int) -> Any:
    def count(document: dict[str, object]) -> None:
        content = Measured.model_validate(document).content
        counters.handle(subscriber, content.number, content.sent_at)

    return dramatiq.actor(count, actor_name=f"count_{subscriber}", queue_name=f"bench-{subscriber}")


_actors = [_define_actor(subscriber) for subscriber in range(counters.SUBSCRIBERS)]


@dramatiq.actor(queue_name="bench-rpc", store_results=True)
def echo(number: int) -> int:
    return number


class Client(SyncClient):
    def publish_one(self, number: int) -> None:
        document = build_document(number)
        for actor in _actors:
            actor.send(document)

    def request_one(self, number: int) -> int:
        return int(echo.send(number).get_result(block=True, timeout=30_000))
