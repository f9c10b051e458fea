"""What grows with the number of subscriptions, of queued events and of handlers at once. Of Petiole only.

Each figure's name ends in the number that it was measured with.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.measures import Bench, Figures, fill, time_per_event

_ASYNC_HANDLERS = 200
_ASYNC_WORK_MS = 2_000
_ASYNC_TIMEOUT_S = 60.0
_DRAINED = 2_000
_DRAIN_TIMEOUT_S = 120.0
_POLL_S = 0.02
_PAIRS = 80
_PUBLISHED = 1_000


def subscriptions(bench: Bench, contestant: Contestant) -> Figures:
    """Time a publish that one of 10, 1,000 or 10,000 subscriptions gets, and the first one after the directory changed.

    Each subscription has a topic of its own, a pattern with a wildcard of its own, or a filter on one common topic.
    """
    contestant = replace(contestant, module="petiole_growth", node=contestant.node[:1])
    figures: Figures = {}
    for kind in ("topic", "wildcard", "filter"):
        for count in (10, bench.count(1_000), bench.count(10_000)):
            growth = {"BENCH_SUBSCRIPTIONS": str(count), "BENCH_KIND": kind}
            with bench.run(contestant, 1, **growth) as run, run.client() as client:
                run.register()
                figures[f"{kind}_us_{count}"] = time_per_event(client.publish, bench) * 1e6
                replace(run, environment=growth | {"BENCH_CHANGE": "1"}).register()
                figures[f"{kind}_after_change_ms_{count}"] = client.publish(count=1) * 1e3
    return figures


def backlog(bench: Bench, contestant: Contestant) -> Figures:
    """Time publishing and draining with a thousand and with a million events in the queue of one subscriber.

    Publishes beside either alternate in slices of a quarter of a second, and the ratio is the median of 80 pairs: what
    a publish takes on one machine can double from one second to the next, whatever is queued.
    """
    figures: Figures = {}
    backlogs = (1_000, bench.count(1_000_000))
    with ExitStack() as stack:
        runs = {queued: stack.enter_context(bench.run(contestant, 1)) for queued in backlogs}
        for queued, run in runs.items():
            run.register()
            fill(run, queued)
        clients = {queued: stack.enter_context(run.client()) for queued, run in runs.items()}
        times: dict[int, list[float]] = {queued: [] for queued in backlogs}
        for client in clients.values():
            client.publish(count=_PUBLISHED)
        for _ in range(_PAIRS):
            for queued, client in clients.items():
                times[queued].append(client.publish(count=_PUBLISHED) / _PUBLISHED)
        ratios = [large / small for small, large in zip(*times.values(), strict=True)]
        figures["backlog_publish_ratio"] = statistics.median(ratios)
        for queued, run in runs.items():
            figures[f"backlog_publish_us_{queued}"] = statistics.median(times[queued]) * 1e6
            run.counts.clear()
            node = run.start_node(contestant.node)
            try:
                _wait_until(run.counts.total, bench.count(_DRAINED), _DRAIN_TIMEOUT_S)
            finally:
                node.kill()
            figures[f"backlog_drain_per_s_{queued}"] = run.counts.rate()
    return figures


def concurrency(bench: Bench, contestant: Contestant) -> Figures:
    """Time 200 asynchronous handlers of two seconds in one process of 200 slots, from the first publish on."""
    command = contestant.node[0]
    slots = replace(command, arguments=(*command.arguments, "-c", str(_ASYNC_HANDLERS)))
    contestant = replace(contestant, module="petiole_async", node=(slots,))
    with bench.run(contestant, 1, BENCH_WORK_MS=str(_ASYNC_WORK_MS)) as run, run.client() as client, run.node() as node:
        try:
            # The first publish of a process loads what it needs.
            client.publish_by("publish_many", count=1)
            _wait_until(lambda: run.counts.executions().total(), 1, _ASYNC_TIMEOUT_S)
            began = time.monotonic()
            client.publish_by("publish_many", first=2, count=_ASYNC_HANDLERS)
            _wait_until(lambda: run.counts.executions().total(), 1 + _ASYNC_HANDLERS, _ASYNC_TIMEOUT_S)
            return {f"async_s_{_ASYNC_HANDLERS}": time.monotonic() - began}
        finally:
            node.kill()


def _wait_until(executions: Callable[[], int], expected: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (done := executions()) < expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{done} of {expected} executions within {within_s:g} s")
        time.sleep(_POLL_S)
