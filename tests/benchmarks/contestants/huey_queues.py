"""Huey: a RedisHuey for each subscriber, because a consumer serves one queue; and one for requests."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.document import Measured, build_document

_URL = os.environ["BENCH_BROKER_URL"]


def _build_queue(subscriber: int) -> RedisHuey:
    return RedisHuey(f"bench-{subscriber}", url=_URL, results=False)


def _define_task(subscriber: int, queue: RedisHuey) -> Any:
    def count(document: dict[str, object]) -> None:
        content = Measured.model_validate(document).content
        counters.handle(subscriber, content.number, content.sent_at)

    queue.on_startup()(counters.report_ready)
    return queue.task(name=f"count_{subscriber}")(count)


_queues = [_build_queue(subscriber) for subscriber in range(counters.SUBSCRIBERS)]
_tasks = [_define_task(subscriber, queue) for subscriber, queue in enumerate(_queues)]

# The names that the consumers' command lines have: huey_0, huey_1 …
globals().update({f"huey_{subscriber}": queue for subscriber, queue in enumerate(_queues)})
huey_rpc = RedisHuey("bench-rpc", url=_URL, notify_result=True)
huey_rpc.on_startup()(counters.report_ready)


@huey_rpc.task()
def echo(number: int) -> int:
    return number


class Client(SyncClient):
    def publish_one(self, number: int) -> None:
        document = build_document(number)
        for task in _tasks:
            task(document)

    def request_one(self, number: int) -> int:
        return int(echo(number).get(blocking=True, timeout=30))
