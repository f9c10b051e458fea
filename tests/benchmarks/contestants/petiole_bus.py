"""Petiole, through its public names: agents, `publish`, `publish_many`, `publish.delay` and `request`.

Workers load this module through PETIOLE_AGENTS, and the address of the broker is PETIOLE_BROKER_URL.
"""

from __future__ import annotations

import time

from celery import signals

from petiole import Agent, publish, publish_many, request
from petiole.events import registry
from petiole.workers.observability.tracing import install_tracing
from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.contestants.petiole_event import MeasuredEvent, build_event

_PUBLISHED_AT_ONCE = 100


registry.register(MeasuredEvent)


def _build_agent(subscriber: int) -> Agent:
    agent = Agent(f"bench-{subscriber}")

    @agent.on("bench.event.published")
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
    def __init__(self) -> None:
        install_tracing()  # if the measure sets an endpoint

    def publish_one(self, number: int) -> None:
        publish(build_event(number))

    def publish_many(self, first: int, count: int) -> float:
        """Publish events, 100 in a call; return the seconds that it took."""
        began = time.monotonic()
        for start in range(first, first + count, _PUBLISHED_AT_ONCE):
            stop = min(start + _PUBLISHED_AT_ONCE, first + count)
            publish_many([build_event(number) for number in range(start, stop)])
        return time.monotonic() - began

    def publish_delay(self, first: int, count: int) -> float:
        """Let a worker publish events, one by one; return the seconds that it took to tell it."""
        began = time.monotonic()
        for number in range(first, first + count):
            publish.delay(build_event(number))
        return time.monotonic() - began

    def request_one(self, number: int) -> int:
        response = request("echo", responder="bench-0", timeout=30, returns=int, number=number).get()
        return response.value if response.value is not None else -1
