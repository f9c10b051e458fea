"""Metrics: the figures of a metrics summary, read from the history, the counters and the queues.

Requests and answers are those that the history recorded since the last summary; a request's time is from its record to
its answer's, by the server's clock. An answer whose request is not found is counted, and has no time. Retries and dead
letters are the differences of counters. Depth and lag are as of now; the lag, the age of what waits longest in a queue,
is known on Redis only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petiole.events.catalog.system import MetricsReport
from petiole.tasks.broker.queue_stats import lag_s, queue_depth
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.stores.history import RecordedEvent

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_PAGE_SIZE = 1_000
_SEARCH_STRINGS = ('"request.', '"response.')


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """A report, and what the next one begins from: the counters, and the last entry of the history."""

    report: MetricsReport
    counts: Mapping[str, int]
    until: str


def collect_metrics(bus: BusRuntime, interval_s: float) -> MetricsSnapshot:
    """Collect the figures since the last summary, or of the last interval where there was none."""
    before, since = bus.stores.counters.last_summary()
    since = since or f"{int((time.time() - interval_s) * 1_000)}-0"
    counts = bus.stores.counters.all()
    until = bus.stores.history.last_entry_id()
    depths, lags = _queue_metrics(bus)
    report = MetricsReport(
        **_request_metrics(bus, _read_recorded(bus, since, until)),
        retries=_increase("retried", counts, before),
        dead_letters=_increase("dead_lettered", counts, before),
        depth=depths,
        lag_s=lags,
    )
    return MetricsSnapshot(report, counts, until)


def _request_metrics(bus: BusRuntime, recorded: Iterator[RecordedEvent]) -> dict[str, Any]:
    requests: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    agents: Counter[str] = Counter()
    times_ms: list[int] = []
    answered = 0
    for each in recorded:
        word = each.topic.partition(".")[0]
        if word == "request":
            content = _content(each)
            requests[str(content.get("request_id"))] = each.recorded_at_ms
            kinds[str(content.get("request_type"))] += 1
            agents[str(content.get("responder"))] += 1
        elif each.topic in {"response.succeeded", "response.failed"}:
            answered += 1
            asked_ms = requests.get(str(_content(each).get("request_id"))) or _requested_at_ms(bus, each)
            times_ms += [] if asked_ms is None else [each.recorded_at_ms - asked_ms]
    return {
        "total_requests": kinds.total(),
        "total_responses": answered,
        "avg_execution_time_ms": sum(times_ms) / len(times_ms) if times_ms else 0.0,
        "request_types": dict(kinds),
        "agent_metrics": dict(agents),
    }


def _requested_at_ms(bus: BusRuntime, answer: RecordedEvent) -> int | None:
    """Find when a request was made that the summary before counted."""
    request_id = _content(answer).get("request_id")
    flow = bus.stores.history.read_flow(str(answer.attributes["correlation_id"]))
    asked = (each for each in flow if each.topic.startswith("request."))
    return next((each.recorded_at_ms for each in asked if _content(each).get("request_id") == request_id), None)


def _read_recorded(bus: BusRuntime, since: str, until: str) -> Iterator[RecordedEvent]:
    following: str | None = since
    while following is not None and _order(following) < _order(until):
        page, following = bus.stores.history.search(_SEARCH_STRINGS, following, count=_PAGE_SIZE)
        yield from (each for each in page if _order(each.entry_id) <= _order(until))


def _queue_metrics(bus: BusRuntime) -> tuple[dict[str, int], dict[str, float]]:
    _, subscriptions = bus.stores.directory.read()
    queues = sorted({each.queue for each in subscriptions} | {PUBLISH_QUEUE})
    with bus.app.connection_for_read() as connection:
        depths = {queue: queue_depth(bus, connection, queue) for queue in queues}
        lags = {queue: lag_s(bus, connection, queue) for queue in queues if depths[queue]}
    return depths, {queue: lag for queue, lag in lags.items() if lag is not None}


def _increase(name: str, counts: Mapping[str, int], before: Mapping[str, int]) -> int:
    return max(0, counts.get(name, 0) - before.get(name, 0))


def _content(recorded: RecordedEvent) -> Mapping[str, Any]:
    content = recorded.document_or_stub.get("content")
    return content if isinstance(content, Mapping) else {}


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))
