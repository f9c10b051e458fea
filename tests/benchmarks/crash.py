"""What a crash costs: all processes of a node are killed at once at 30 % of the work, and started again."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.measures import Bench, Figures
from tests.benchmarks.runs import Run

WORK_MS = 50
GIVE_UP_S = 100.0

_KILLED_AT = 0.3
_REPEATS_WITHIN_S = 10.0
_POLL_S = 0.02


def crash(bench: Bench, contestant: Contestant) -> Figures:
    """Count the events that are never handled or run twice, and time the rest, from the restart and from its end.

    A node is ready when its last process is. An early one may have handled all by then, which makes 0 s.
    """
    events = bench.count(200)
    environment = {"BENCH_WORK_MS": str(WORK_MS), **contestant.crash_environment}
    with bench.run(contestant, 1, **environment) as run, run.client() as client:
        node = run.start_node(contestant.crash_node)
        try:
            client.publish(count=events)
            _wait_until(lambda: len(run.counts.executions()) >= events * _KILLED_AT, GIVE_UP_S)
        finally:
            node.kill()
        restarted_at = time.monotonic()
        node = run.start_node(contestant.crash_node)
        start_s = time.monotonic() - restarted_at
        try:
            took_s = _wait_until(lambda: len(run.counts.executions()) >= events, GIVE_UP_S)
            time.sleep(_REPEATS_WITHIN_S)
        finally:
            node.kill()
        return _figures(run, events) | _recovery(start_s, took_s)


def _wait_until(condition: Callable[[], bool], within_s: float) -> float | None:
    """Return the seconds until the condition holds, or None if it does not in time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            return None
        time.sleep(_POLL_S)
    return time.monotonic() - began


def _figures(run: Run, events: int) -> Figures:
    executions = run.counts.executions()
    return {"never_handled": events - len(executions), "run_twice": executions.total() - len(executions)}


def _recovery(start_s: float, took_s: float | None) -> Figures:
    return {} if took_s is None else {"recovered_s": took_s, "since_restart_s": start_s + took_s}
