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
from tests.benchmarks.runs import Client, Run

_ASYNC_HANDLERS = 200
_ASYNC_WORK_MS = 2_000
_ASYNC_TIMEOUT_S = 60.0
_DRAINED = 1_000
_DRAIN_TIMEOUT_S = 120.0
_POLL_S = 0.02
_PAIRS = 60


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
    """Time publishing and draining with three thousand and with a million events in the queue of one subscriber.

    The two queues take turns of less than a second: the node drains a thousand events and is paused, then the client
    publishes as many. A ratio is the median of 60 pairs of turns: what either takes on one machine can double from one
    second to the next, whatever is queued.
    """
    backlogs = (3_000, bench.count(1_000_000))
    with ExitStack() as stack:
        runs = [stack.enter_context(bench.run(contestant, 1)) for _ in backlogs]
        for run, queued in zip(runs, backlogs, strict=True):
            run.register()
            fill(run, queued)
        queues = [_Queue(run, stack.enter_context(run.client())) for run in runs]
        for queue in queues:
            stack.callback(queue.node.kill)
        for turn in range(1 + _PAIRS):
            for queue in queues:
                queue.take_turn(is_measured=turn > 0)
        small, large = [queue.figures() for queue in queues]
    figures: Figures = {}
    for name, unit in (("publish", "us"), ("drain", "per_s")):
        ratios = [after / before for before, after in zip(small[name], large[name], strict=True)]
        figures[f"backlog_{name}_ratio"] = statistics.median(ratios)
        for queued, values in zip(backlogs, (small[name], large[name]), strict=True):
            figures[f"backlog_{name}_{unit}_{queued}"] = statistics.median(values)
    return figures


class _Queue:
    """A queue whose length is the same after each turn, and what was measured in the turns."""

    def __init__(self, run: Run, client: Client) -> None:
        self._run, self._client = run, client
        self._drained = run.counts.total()
        self.node = run.start_node(run.contestant.node)
        self.node.pause()
        self._drained = run.counts.total() - self._drained
        self._publish_s: list[float] = []
        self._drain_times: list[tuple[float, float]] = []

    def take_turn(self, *, is_measured: bool) -> None:
        """Publish what the previous turn drained, and drain a thousand."""
        refilled = max(1, self._drained)
        publish_s = self._client.publish(count=refilled) / refilled
        counted, began = self._run.counts.total(), time.monotonic()
        self.node.resume()
        _wait_until(self._run.counts.total, counted + _DRAINED, _DRAIN_TIMEOUT_S)
        ended = time.monotonic()
        self.node.pause()
        self._drained = self._run.counts.total() - counted
        if is_measured:
            self._publish_s.append(publish_s)
            self._drain_times.append((began, ended))

    def figures(self) -> dict[str, list[float]]:
        """Return the microseconds of a publish and the events drained per second, of each turn."""
        counts = self._run.counts
        drained = [counts.handled_between(*times) / (times[1] - times[0]) for times in self._drain_times]
        return {"publish": [seconds * 1e6 for seconds in self._publish_s], "drain": drained}


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
