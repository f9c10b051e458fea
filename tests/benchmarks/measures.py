"""The measures, one function each, from what a publisher pays to what a crash costs.

Each takes the contestant and returns its figures of one round. Whatever handles events must handle each one once for
each subscriber: `Counts.wait_for` compares counts and sums of the event numbers and raises otherwise. All use fresh
brokers, so no measure sees what another one left.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import redis

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.runs import Client, Run, start_run

SUBSCRIBERS = 3
STALL_S = 30.0

_SLICES = 8
_SLICE_S = 0.25
_WARM_UP = 50
_SETTLE_S = 5.0  # until what a start causes is over

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measures of one invocation share. `scale` multiplies numbers of events and durations."""

    counts_url: str
    scale: float = 1.0
    appends: bool = False

    def run(
        self, contestant: Contestant, subscribers: int = SUBSCRIBERS, **environment: str
    ) -> AbstractContextManager[Run]:
        """Start a run on a fresh broker."""
        return start_run(contestant, self.counts_url, subscribers=subscribers, appends=self.appends, **environment)

    def count(self, number: int) -> int:
        """Return a number of events at this scale."""
        return max(round(number * self.scale), 20)

    def seconds(self, duration_s: float) -> float:
        """Return a duration at this scale."""
        return duration_s * self.scale


def publish(bench: Bench, contestant: Contestant) -> Figures:
    """Time one publisher that publishes one event after the other, with nobody consuming."""
    figures: Figures = {}
    for subscribers in (1, 3, 10):
        with bench.run(contestant, subscribers) as run, run.client() as client:
            run.register()
            for way in contestant.ways_to_publish:
                figures[f"{way}_us_{subscribers}"] = time_per_event(partial(client.publish_by, way), bench) * 1e6
    return figures


def time_per_event(operation: Callable[..., float], bench: Bench) -> float:
    """Return seconds per event: the median of the slices' means, so one that was disturbed does not count."""
    operation(count=_WARM_UP)
    size = max(int(bench.seconds(_SLICE_S) * _WARM_UP / operation(count=_WARM_UP)), 20)
    return statistics.median(operation(count=size) / size for _ in range(_SLICES))


def drain(bench: Bench, contestant: Contestant) -> Figures:
    """Fill the queues while nobody consumes, then let the node empty them."""
    events = bench.count(6_000)
    with bench.run(contestant) as run:
        fill(run, events)
        with run.node():
            run.counts.wait_for(events, SUBSCRIBERS, STALL_S)
    return {"drain_per_s": run.counts.rate() / SUBSCRIBERS}


def fill(run: Run, events: int) -> None:
    """Publish events number 1 to `events`, by the cheapest way that the contestant has."""
    with run.client() as client:
        run.register()
        ways = run.contestant.ways_to_publish
        client.publish_by("publish_many" if "publish_many" in ways else "publish", count=events)


def steady(bench: Bench, contestant: Contestant) -> Figures:
    """Publish as fast as one publisher can while the node consumes, until all is handled."""
    events = bench.count(3_000)
    with bench.run(contestant) as run, run.client() as client, run.node():
        _warm_up(run, client)
        began = time.monotonic()
        client.publish(count=events)
        run.counts.wait_for(events, SUBSCRIBERS, STALL_S)
        return {"steady_per_s": events / (run.counts.last_handled_at() - began)}


def latency(bench: Bench, contestant: Contestant) -> Figures:
    """Time from before the publish to the start of each handler, at 50 events a second."""
    events = bench.count(500)
    with bench.run(contestant, BENCH_LATENCIES="1") as run, run.client() as client, run.node():
        _warm_up(run, client)
        client.publish(count=events, rate_hz=50)
        run.counts.wait_for(events, SUBSCRIBERS, STALL_S)
        p50, p99 = percentiles(run.counts.latencies_ms())
    return {"latency_p50_ms": p50, "latency_p99_ms": p99}


def request(bench: Bench, contestant: Contestant) -> Figures:
    """Send requests to an idle node, from one caller and from sixteen at once."""
    with bench.run(contestant) as run, run.client() as client, run.node():
        client.request(callers=4, count=_WARM_UP)
        alone_ms, _ = client.request(callers=1, count=bench.count(400))
        together = bench.count(1_600)
        together_ms, seconds = client.request(callers=16, count=together)
    p50, p99 = percentiles(alone_ms)
    return {
        "request_p50_ms": p50,
        "request_p99_ms": p99,
        "request_16_p50_ms": percentiles(together_ms)[0],
        "request_16_per_s": together / seconds,
    }


def memory(bench: Bench, contestant: Contestant) -> Figures:
    """Measure what events cost the broker while they are queued, and what is left when all are handled."""
    events = bench.count(5_000)
    with bench.run(contestant) as run:
        run.register()
        empty = _used_bytes(run.broker)
        fill(run, events)
        queued = _used_bytes(run.broker)
        with run.node():
            run.counts.wait_for(events, SUBSCRIBERS, STALL_S)
        left = _used_bytes(run.broker)
    return {
        "queued_bytes": (queued - empty) / events / SUBSCRIBERS,
        "left_bytes": (left - empty) / events,
    }


def server(bench: Bench, contestant: Contestant) -> Figures:
    """Measure the broker's CPU time for one event that is published, and for one delivery of it that is handled."""
    events = bench.count(3_000)
    with bench.run(contestant) as run, run.client() as client:
        run.register()
        client.publish(count=_WARM_UP)
        began = _cpu_s(run.broker)
        client.publish(first=_WARM_UP + 1, count=events)
        published = _cpu_s(run.broker)
        with run.node():
            run.counts.wait_for(_WARM_UP + events, SUBSCRIBERS, STALL_S)
            handled = _cpu_s(run.broker)
    return {
        "server_publish_us": (published - began) / events * 1e6,
        "server_delivery_us": (handled - published) / (_WARM_UP + events) / SUBSCRIBERS * 1e6,
    }


def idle(bench: Bench, contestant: Contestant) -> Figures:
    """Measure a node without work: its memory, and per worker the commands sent, and executed in scripts as well."""
    duration_s = max(bench.seconds(20), 5)
    with bench.run(contestant) as run, run.node() as node, run.broker as broker:
        time.sleep(_SETTLE_S)
        sent, executed = _commands_per_s(broker, duration_s)
        memories = [process.memory_full_info() for process in node.tree()]
        return {
            "idle_rss_mb": sum(process_memory.rss for process_memory in memories) / 1e6,
            "idle_pss_mb": sum(process_memory.pss for process_memory in memories) / 1e6,
            "idle_commands_per_s": sent / len(node.processes),
            "idle_executed_per_s": executed / len(node.processes),
        }


def percentiles(values: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _warm_up(run: Run, client: Client) -> None:
    client.publish(count=_WARM_UP)
    run.counts.wait_for(_WARM_UP, run.subscribers, STALL_S)
    run.counts.clear()


def _used_bytes(broker: redis.Redis) -> int:
    with broker:
        return int(broker.info("memory")["used_memory"])


def _cpu_s(broker: redis.Redis) -> float:
    with broker:
        used = broker.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _commands_per_s(broker: redis.Redis, duration_s: float) -> tuple[float, float]:
    """Count the commands that clients send, and those that the broker executes, scripts' included."""
    sent = executed = 0
    with broker.monitor() as monitor:
        began = time.monotonic()
        while time.monotonic() - began < duration_s:
            sent += monitor.next_command()["client_type"] != "lua"
            executed += 1
        took_s = time.monotonic() - began
    return sent / took_s, executed / took_s
