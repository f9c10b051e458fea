"""FastStream on Redis streams: one stream, and a consumer group for each subscriber.

With BENCH_RECOVERS each process also claims messages that another one took more than five seconds ago.
"""

from __future__ import annotations

import os
from uuid import uuid4

import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from tests.benchmarks import counters
from tests.benchmarks.clients import AsyncClient
from tests.benchmarks.document import Measured, build_document

_CONSUMER = f"{os.getpid()}-{uuid4().hex[:8]}"
_CLAIM_IDLE_MS = 5_000

broker = RedisBroker(os.environ["BENCH_BROKER_URL"], logger=None)
app = FastStream(broker)


def _subscription(stream: str, group: str, min_idle_time: int | None = None) -> StreamSub:
    return StreamSub(stream, group=group, consumer=_CONSUMER, max_records=100, min_idle_time=min_idle_time)


def _subscribe(subscriber: int) -> None:
    async def count(event: Measured) -> None:
        await counters.handle_async(subscriber, event.content.number, event.content.sent_at)

    broker.subscriber(stream=_subscription("bench", f"group-{subscriber}"))(count)
    if "BENCH_RECOVERS" in os.environ:
        broker.subscriber(stream=_subscription("bench", f"group-{subscriber}", _CLAIM_IDLE_MS))(count)


for _subscriber in range(counters.SUBSCRIBERS):
    _subscribe(_subscriber)


@broker.subscriber(stream=_subscription("rpc", "rpc"))
async def echo(number: int) -> int:
    return number


@app.after_startup
def _report_ready() -> None:
    counters.report_ready()


class Client(AsyncClient):
    def __init__(self) -> None:
        super().__init__(uvloop.new_event_loop)

    async def connect(self) -> None:
        self.broker = RedisBroker(os.environ["BENCH_BROKER_URL"])
        await self.broker.connect()

    async def publish_one(self, number: int) -> None:
        await self.broker.publish(build_document(number), stream="bench")

    async def request_one(self, number: int) -> int:
        response = await self.broker.request(number, stream="rpc", timeout=30)
        return int(await response.decode())
