"""Petiole, through its public names: agents, `publish`, `publish_many`, `publish.delay` and `request`.

Workers load this module through PETIOLE_AGENTS, and the address of the broker is PETIOLE_BROKER_URL.
"""

from __future__ import annotations

import os
import time
from typing import Literal

from celery import signals

from petiole import Agent, Event, EventContext, publish, publish_many, request
from petiole.events import Content, registry
from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.document import SOURCE, TEXT

_BATCH = int(os.environ.get("BENCH_BATCH", "0")) or None
_PUBLISHED_AT_ONCE = 100


class MeasuredContent(Content):
    number: int
    sent_at: float
    text: str


class MeasuredEvent(Event):
    """The event of the benchmark."""

    event_type: Literal["bench.event.published"] = "bench.event.published"
    content: MeasuredContent


registry.register(MeasuredEvent)


def build_event(number: int) -> MeasuredEvent:
    return MeasuredEvent(
        stream_id=f"stream-{number}",
        content=MeasuredContent(number=number, sent_at=time.monotonic(), text=TEXT),
        context=EventContext(source=SOURCE),
    )


def _build_agent(subscriber: int) -> Agent:
    agent = Agent(f"bench-{subscriber}")

    @agent.on("bench.event.published", batch=_BATCH)
    def count(event: MeasuredEvent) -> None:
        counters.handle(subscriber, event.content.number, event.content.sent_at)

    return agent


def echo(number: int) -> int:
    return number


def _build_agents() -> dict[str, Agent]:
    agents = {f"agent_{subscriber}": _build_agent(subscriber) for subscriber in range(counters.SUBSCRIBERS)}
    agents["agent_0"].answers("echo")(echo)
    return agents


# A worker includes the agents that it finds among the names of the module.
globals().update(_build_agents())


@signals.worker_ready.connect
def _report_ready(**_: object) -> None:
    counters.report_ready()


class Client(SyncClient):
    def publish_one(self, number: int) -> None:
        publish(build_event(number))

    def publish_many(self, first: int, count: int) -> float:
        """Publish events, 100 in a call; return the seconds that it took."""
        began = time.monotonic()
        for start in range(first, first + count, _PUBLISHED_AT_ONCE):
            stop = min(start + _PUBLISHED_AT_ONCE, first + count)
            publish_many([build_event(number) for number in range(start, stop)])
        return time.monotonic() - began

    def request_one(self, number: int) -> int:
        response = request("echo", responder="bench-0", timeout=30, returns=int, number=number).get()
        return response.value if response.value is not None else -1
