"""Petiole with BENCH_SUBSCRIPTIONS subscriptions, of which each event that the client publishes matches one.

BENCH_KIND tells what they are told apart by: a topic, a pattern with a wildcard, or a filter on a common topic.
With BENCH_CHANGE the module has another agent, with one more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import signals

from petiole import Agent, Event, EventContext, MessageEvent, publish
from petiole.events import ParametersContent
from tests.benchmarks import counters
from tests.benchmarks.clients import SyncClient
from tests.benchmarks.document import SOURCE, TEXT

_KIND = os.environ["BENCH_KIND"]
_COUNT = int(os.environ["BENCH_SUBSCRIPTIONS"])

_ON: dict[str, Callable[[int], dict[str, Any]]] = {
    "topic": lambda number: {"topic": f"message.growth.topic_{number}"},
    "wildcard": lambda number: {"topic": f"message.growth.topic_{number}.*"},
    "filter": lambda number: {"topic": "message.growth", "where": {"content.parameters.number": number}},
}
_PUBLISHED = {"topic": "message.growth.topic_0", "wildcard": "message.growth.topic_0.any", "filter": "message.growth"}

_is_change = "BENCH_CHANGE" in os.environ
growing = Agent("late" if _is_change else "growing")


def _subscribe(number: int) -> None:
    def ignore(event: Event) -> None: ...

    ignore.__name__ = f"ignore_{number}"
    options = _ON[_KIND](number)
    growing.on(options.pop("topic"), **options)(ignore)


for _number in [_COUNT] if _is_change else range(_COUNT):
    _subscribe(_number)


@signals.worker_ready.connect
def _report_ready(**_: object) -> None:
    counters.report_ready()


class Client(SyncClient):
    def publish_one(self, number: int) -> None:
        content = ParametersContent(parameters={"number": 0, "text": TEXT})
        context = EventContext(source=SOURCE)
        publish(
            MessageEvent(stream_id=f"stream-{number}", event_type=_PUBLISHED[_KIND], content=content, context=context)
        )

    def request_one(self, number: int) -> int:
        raise NotImplementedError
