"""Plain Celery as a careful user tunes it: a task on a queue of its own for each subscriber.

With BENCH_RECOVERS it acknowledges late and redelivers what is unacknowledged for five seconds.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals
from kombu import Queue

from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.document import Measured, build_document

_URL = os.environ["BENCH_BROKER_URL"]

app = Celery("plain", broker=_URL, backend=_URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    task_queues=[Queue(f"plain-{subscriber}") for subscriber in range(counters.SUBSCRIBERS)],
    task_default_queue="plain-0",
)
if "BENCH_RECOVERS" in os.environ:
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=4,
        broker_transport_options={
            "visibility_timeout": 5,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )


def _define_task(subscriber: int) -> Any:
    def count(document: dict[str, object]) -> None:
        content = Measured.model_validate(document).content
        counters.handle(subscriber, content.number, content.sent_at)

    return app.task(name=f"plain-{subscriber}.count")(count)


_tasks = [_define_task(subscriber) for subscriber in range(counters.SUBSCRIBERS)]


@app.task(name="plain-0.echo", ignore_result=False)
def echo(number: int) -> int:
    return number


@signals.worker_ready.connect
def _report_ready(**_: object) -> None:
    counters.report_ready()


class Client(SyncClient):
    def publish_one(self, number: int) -> None:
        document = build_document(number)
        for subscriber, task in enumerate(_tasks):
            task.apply_async((document,), queue=f"plain-{subscriber}")

    def request_one(self, number: int) -> int:
        return int(echo.apply_async((number,), queue="plain-0").get(timeout=30))
