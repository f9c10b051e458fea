"""Metrics: collect the figures of a metrics summary from the history, the counters and the queues.

- Requests and replies are those recorded in the history since the last summary. The execution time of a request is the
  time between both records, by the server's clock. A reply without a known request is counted without a time.
- Retries and dead letters are differences of counters.
- Events, handled and failed deliveries and latency are differences of the counts that Prometheus gets, too; 0 unless
  PETIOLE_METRICS is on.
- Depth and lag are current values. Lag is how long the oldest message of a queue has waited; only Redis provides it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petiole.events.catalog.system import MetricsReport
from petiole.tasks.broker.queue_stats import queue_depths, queue_lags
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.stores.event_counts import EventCount
from petiole.tasks.stores.history import RecordedEvent

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_PAGE_SIZE = 1_000
_SEARCH_STRINGS = ('"request.', '"response.')


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """A report, with the counters and the last history entry from which the next report starts."""

    report: MetricsReport
    counts: Mapping[str, int]
    until: str


def collect_metrics(bus: BusRuntime, interval_s: float) -> MetricsSnapshot:
    """Collect the figures since the last summary, or of the last interval if there is none."""
    last_counts, since = bus.stores.counters.last_summary()
    since = since or f"{int((bus.now().timestamp() - interval_s) * 1_000)}-0"
    counts = bus.stores.counters.all() | _summarize_counts(bus.stores.event_counts.all())
    until = bus.stores.history.last_entry_id()
    queues = read_queues(bus)
    report = MetricsReport(
        **_request_metrics(bus, _read_recorded(bus, since, until)),
        retries=_increase("retried", counts, last_counts),
        dead_letters=_increase("dead_lettered", counts, last_counts),
        depth=dict(queues.depth),
        lag_s=dict(queues.lag_s),
        in_flight=dict(queues.in_flight),
        **_event_metrics(counts, last_counts),
    )
    return MetricsSnapshot(report, counts, until)


def _request_metrics(bus: BusRuntime, recorded: Iterator[RecordedEvent]) -> dict[str, Any]:
    requests: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    agents: Counter[str] = Counter()
    times_ms: list[int] = []
    response_count = 0
    for entry in recorded:
        prefix = entry.topic.partition(".")[0]
        if prefix == "request":
            content = _content(entry)
            requests[str(content.get("request_id"))] = entry.recorded_at_ms
            kinds[str(content.get("request_type"))] += 1
            agents[str(content.get("responder"))] += 1
        elif entry.topic in {"response.succeeded", "response.failed"}:
            response_count += 1
            requested_ms = requests.get(str(_content(entry).get("request_id"))) or _requested_at_ms(bus, entry)
            times_ms += [] if requested_ms is None else [entry.recorded_at_ms - requested_ms]
    return {
        "total_requests": kinds.total(),
        "total_responses": response_count,
        "avg_execution_time_ms": sum(times_ms) / len(times_ms) if times_ms else 0.0,
        "request_types": dict(kinds),
        "agent_metrics": dict(agents),
    }


def _requested_at_ms(bus: BusRuntime, reply: RecordedEvent) -> int | None:
    """Find the time of a request that an earlier summary counted."""
    request_id = _content(reply).get("request_id")
    flow = bus.stores.history.read_flow(str(reply.attributes["correlation_id"]))
    requests = (entry for entry in flow if entry.topic.startswith("request."))
    return next((entry.recorded_at_ms for entry in requests if _content(entry).get("request_id") == request_id), None)


def _read_recorded(bus: BusRuntime, since: str, until: str) -> Iterator[RecordedEvent]:
    following: str | None = since
    while following is not None and _order(following) < _order(until):
        page, following = bus.stores.history.search(_SEARCH_STRINGS, following, count=_PAGE_SIZE)
        yield from (entry for entry in page if _order(entry.entry_id) <= _order(until))


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """By queue: deliveries that wait, the age in s of the oldest, and those that a worker has. Redis has all three."""

    depth: Mapping[str, int]
    lag_s: Mapping[str, float]
    in_flight: Mapping[str, int]


def read_queues(bus: BusRuntime) -> QueueFigures:
    """Read the figures of all queues that have a subscription, and of `publish`."""
    _, subscriptions = bus.stores.directory.read()
    queues = sorted({subscription.queue for subscription in subscriptions} | {PUBLISH_QUEUE})
    with bus.app.connection_for_read() as connection:
        depths = queue_depths(bus, connection, queues)
        lags = queue_lags(bus, connection, [queue for queue in queues if depths[queue]])
    in_flight = dict.fromkeys(queues, 0) | bus.stores.deliveries.in_flight() if bus.publishes_atomically else {}
    return QueueFigures(depths, lags, in_flight)


def _summarize_counts(counts: Mapping[EventCount, float]) -> dict[str, int]:
    """Add event counts up to those of a summary. `failed` counts attempts: those retried and those dead-lettered."""
    totals: Counter[str] = Counter()
    for count, amount in counts.items():
        agent = count.subscription.rpartition(".")[0]
        match count.family, count.detail:
            case "event", "success":
                totals["events"] += int(amount)
            case "delivery", "handled":
                totals[f"handled:{agent}"] += int(amount)
            case "delivery", "retried" | "dead_lettered":
                totals[f"failed:{agent}"] += int(amount)
            case "critical", "sum":
                totals["latency_ms"] += round(1_000 * amount)
            case "critical", _:
                totals["latencies"] += int(amount)
    return dict(totals)


def _event_metrics(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, Any]:
    latencies = _increase("latencies", counts, before)
    return {
        "events": _increase("events", counts, before),
        "handled": _increase_by_agent("handled:", counts, before),
        "failed": _increase_by_agent("failed:", counts, before),
        "avg_latency_ms": _increase("latency_ms", counts, before) / latencies if latencies else 0.0,
    }


def _increase_by_agent(prefix: str, counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    names = (name for name in counts if name.startswith(prefix))
    increases = {name.removeprefix(prefix): _increase(name, counts, before) for name in names}
    return {agent: increase for agent, increase in increases.items() if increase}


def _increase(name: str, counts: Mapping[str, int], before: Mapping[str, int]) -> int:
    return max(0, counts.get(name, 0) - before.get(name, 0))


def _content(recorded: RecordedEvent) -> Mapping[str, Any]:
    content = recorded.document_or_stub.get("content")
    return content if isinstance(content, Mapping) else {}


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))
