"""The metrics of the whole system as a page for Prometheus: counts, durations, queues, breakers, limits and costs.

    <namespace>_events_total{event_type,status}                      calls that published (success) or raised (error)
    <namespace>_deliveries_total{event_type,subscription,outcome}    attempts by outcome
    <namespace>_event_processing_seconds{event_type}                 time in the handler, also if it raised
    <namespace>_event_critical_seconds{subscription}                 time from publish to handled
    <namespace>_queue_depth{queue}                                   deliveries that wait
    <namespace>_queue_lag_seconds{queue}                             age of the oldest one
    <namespace>_queue_in_flight{queue}                               deliveries that a worker has
    <namespace>_delayed                                              deliveries and events that are due later
    <namespace>_circuit_state{circuit,state}                         1 for the state of a circuit breaker, else 0
    <namespace>_rate_limit_used{account,resource}                    requests and tokens that count for an account now
    <namespace>_rate_limit_quota{account,resource}                   its quotas, unless it is unlimited
    <namespace>_rate_limit_paused{account}                           1 while a provider's pause lasts, else 0
    <namespace>_model_tokens_total{model,direction}                  tokens of language models, input and output
    <namespace>_model_cost_usd_total{model}                          their cost, where a price is set

All figures are those of the state store, so every process shows the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from petiole.tasks.instrumentation.event_counter import ABOVE, BUCKETS_S
from petiole.tasks.operations.metrics import read_queues
from petiole.tasks.stores.circuits import CircuitState
from petiole.tasks.stores.event_counts import EventCount

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


_EVENT_LABELS = {"event_type": "event_type", "status": "detail"}
_DELIVERY_LABELS = {"event_type": "event_type", "subscription": "subscription", "outcome": "detail"}
_TOKEN_LABELS = {"model": "model", "direction": "detail"}
_COST_LABELS = {"model": "model"}
"""The labels of a counter, and which part of an EventCount each one is."""

_MAX_CIRCUITS = 200
"""How many circuits are shown. Those that are not closed come first."""


def render_metrics(bus: BusRuntime) -> str:
    """Read all metrics and write them in Prometheus' text format. Raises redis-py's errors and kombu's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SystemMetrics(bus))
    return generate_latest(registry).decode()


class _SystemMetrics(Collector):
    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._namespace = bus.settings.metrics_namespace

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect once more to learn the names

    def collect(self) -> Iterator[Metric]:
        counts = self._bus.stores.event_counts.all()
        yield self._count(counts, "event", "events", "Events published, and publish calls that raised.", _EVENT_LABELS)
        yield self._count(counts, "delivery", "deliveries", "Attempts to deliver, by outcome.", _DELIVERY_LABELS)
        yield self._durations(counts, "processing", "event_processing_seconds", "event_type", "Time in the handler.")
        yield self._durations(
            counts, "critical", "event_critical_seconds", "subscription", "Time from publish to handled."
        )
        yield from self._queues()
        yield self._circuits()
        yield from self._rate_limits()
        yield self._count(counts, "tokens", "model_tokens", "Tokens of language models.", _TOKEN_LABELS)
        yield self._count(counts, "cost", "model_cost_usd", "Cost of language models in US dollars.", _COST_LABELS)

    def _count(
        self, counts: Mapping[EventCount, float], source: str, name: str, description: str, labels: Mapping[str, str]
    ) -> Metric:
        family = CounterMetricFamily(f"{self._namespace}_{name}", description, labels=tuple(labels))
        for count, amount in sorted(counts.items()):
            if count.family == source:
                family.add_metric([getattr(count, field) for field in labels.values()], amount)
        return family

    def _durations(
        self, counts: Mapping[EventCount, float], source: str, name: str, label: str, description: str
    ) -> Metric:
        family = HistogramMetricFamily(f"{self._namespace}_{name}", description, labels=(label,))
        by_label: dict[str, dict[str, float]] = {}
        for count, amount in sorted(counts.items()):
            if count.family == source:
                by_label.setdefault(count.event_type or count.subscription, {})[count.detail] = amount
        for value, amounts in by_label.items():
            ends = [*map(str, BUCKETS_S), ABOVE]
            totals = accumulate(amounts.get(end, 0.0) for end in ends)
            buckets = [("+Inf" if end == ABOVE else end, total) for end, total in zip(ends, totals, strict=True)]
            family.add_metric((value,), buckets, amounts.get("sum", 0.0))
        return family

    def _queues(self) -> Iterator[Metric]:
        queues = read_queues(self._bus)
        for name, description, values in (
            ("queue_depth", "Deliveries that wait in a queue.", queues.depth),
            ("queue_lag_seconds", "Age of the oldest event in a queue.", queues.lag_s),
            ("queue_in_flight", "Deliveries that a worker has and that have not ended.", queues.in_flight),
        ):
            family = GaugeMetricFamily(f"{self._namespace}_{name}", description, labels=("queue",))
            for queue, value in sorted(values.items()):
                family.add_metric((queue,), value)
            yield family
        delayed = GaugeMetricFamily(f"{self._namespace}_delayed", "Deliveries and events that are due later.")
        delayed.add_metric((), self._bus.stores.delayed_messages.count())
        yield delayed

    def _circuits(self) -> Metric:
        labels = ("circuit", "state")
        family = GaugeMetricFamily(f"{self._namespace}_circuit_state", "1 for the state of a circuit.", labels=labels)
        circuits = sorted(self._bus.stores.circuits.all(), key=lambda circuit: circuit.state == "closed")
        for circuit in circuits[:_MAX_CIRCUITS]:
            for state in get_args(CircuitState):
                family.add_metric((circuit.name, state), float(circuit.state == state))
        return family

    def _rate_limits(self) -> Iterator[Metric]:
        name, labels = f"{self._namespace}_rate_limit", ("account", "resource")
        used = GaugeMetricFamily(f"{name}_used", "What counts for an account now.", labels=labels)
        quota = GaugeMetricFamily(f"{name}_quota", "What an account may use in a window.", labels=labels)
        paused = GaugeMetricFamily(f"{name}_paused", "1 while a provider's pause lasts.", labels=labels[:1])
        for usage in self._bus.stores.rate_limits.accounts(self._bus.now()):
            paused.add_metric((usage.account,), float(usage.paused_until is not None))
            for resource, amount, most in (
                ("requests", usage.used.requests, usage.max_requests),
                ("tokens", usage.used.tokens, usage.max_tokens),
            ):
                used.add_metric((usage.account, resource), amount)
                if most is not None:
                    quota.add_metric((usage.account, resource), most)
        yield from (used, quota, paused)
