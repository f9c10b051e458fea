"""What is printed of a benchmark: medians of the rounds with their least and most, and ratios.

    python -m tests.benchmarks.report build/bench/<run>.json        prints a kept run again

Ratios compare within each round, because machines are noisy.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

Turn: TypeAlias = Mapping[str, Any]

LABELS = {
    "publish_us_1": "publish to 1 subscriber, µs",
    "publish_us_3": "publish to 3, µs",
    "publish_us_10": "publish to 10, µs",
    "publish_many_us_1": "publish_many to 1, µs per event",
    "publish_many_us_3": "publish_many to 3, µs per event",
    "publish_many_us_10": "publish_many to 10, µs per event",
    "publish_delay_us_1": "publish.delay to 1, µs",
    "publish_delay_us_3": "publish.delay to 3, µs",
    "publish_delay_us_10": "publish.delay to 10, µs",
    "drain_per_s": "drain, events/s",
    "steady_per_s": "steady, events/s",
    "latency_p50_ms": "latency, p50, ms",
    "latency_p99_ms": "latency, p99, ms",
    "request_p50_ms": "request, p50, ms",
    "request_p99_ms": "request, p99, ms",
    "request_16_p50_ms": "request of 16 callers, p50, ms",
    "request_16_per_s": "requests/s of 16 callers",
    "queued_bytes": "bytes queued, per event and subscriber",
    "left_bytes": "bytes left when handled, per event",
    "server_publish_us": "broker's CPU for a publish to 3, µs",
    "server_delivery_us": "broker's CPU for a delivery, µs",
    "idle_rss_mb": "idle node, RSS, MB",
    "idle_pss_mb": "idle node, PSS, MB",
    "idle_commands_per_s": "idle worker, commands sent per s",
    "idle_executed_per_s": "idle worker, commands executed per s, those of scripts included",
    "never_handled": "crash: never handled",
    "run_twice": "crash: run twice",
    "recovered_s": "crash: all handled, s after ready",
    "since_restart_s": "crash: all handled, s after the restart",
    "publish_with_metrics": "publish with metrics, times without",
    "publish_with_traces": "publish with traces, times without",
    "publish_with_metrics_and_traces": "publish with both, times without",
    "drain_with_metrics": "time of a drain with metrics, times without",
    "drain_with_traces": "time of a drain with traces, times without",
    "drain_with_metrics_and_traces": "time of a drain with both, times without",
    "import_ms": "import, ms",
    "import_modules": "import, modules",
}
"""The figures in the order of the table; those of growth have names of their own and follow."""

BASES = ("faststream", "huey", "celery")
WIDTH = 200


def print_report(turns: Sequence[Turn], console: Console) -> None:
    """Print a table of all figures, and one of ratios for each peer that others are compared with."""
    contestants = list(dict.fromkeys(turn["contestant"] for turn in turns))
    figures = _figure_names(turns)
    table = _table("median (least-most)", contestants)
    for figure in figures:
        values = _by_round(turns, figure)
        table.add_row(LABELS.get(figure, figure), *(_spread(list(values[name].values())) for name in contestants))
    for measure, failed in _failures(turns, contestants):
        table.add_row(f"{measure}: rounds that failed", *failed)
    console.print(table)
    for base in BASES:
        others = [name for name in contestants if name != base]
        if base in contestants and others:
            console.print()
            console.print(_ratios(turns, figures, base, others))


def _ratios(turns: Sequence[Turn], figures: Sequence[str], base: str, others: Sequence[str]) -> Table:
    table = _table(f"times the figure of {base}: median of the rounds (least-most)", others)
    for figure in figures:
        values = _by_round(turns, figure)
        divisors = {number: value for number, value in values[base].items() if value}
        if not divisors:
            continue
        ratios = (
            [value / divisors[number] for number, value in values[name].items() if number in divisors]
            for name in others
        )
        table.add_row(LABELS.get(figure, figure), *map(_spread, ratios))
    return table


def _by_round(turns: Sequence[Turn], figure: str) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {turn["contestant"]: {} for turn in turns}
    for turn in turns:
        if figure in turn["figures"]:
            values[turn["contestant"]][turn["round"]] = turn["figures"][figure]
    return values


def _figure_names(turns: Sequence[Turn]) -> list[str]:
    present = dict.fromkeys(figure for turn in turns for figure in turn["figures"])
    return [figure for figure in LABELS if figure in present] + [name for name in present if name not in LABELS]


def _failures(turns: Sequence[Turn], contestants: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for measure in dict.fromkeys(turn["measure"] for turn in turns if turn["error"]):
        of_measure = [turn for turn in turns if turn["measure"] == measure]
        rounds = [[bool(turn["error"]) for turn in of_measure if turn["contestant"] == name] for name in contestants]
        yield measure, [f"{sum(failed)} of {len(failed)}" if any(failed) else "" for failed in rounds]


def _table(title: str, contestants: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for name in contestants:
        table.add_column(name, justify="right")
    return table


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    median, least, most = map(_format, (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least}-{most})"


def _format(value: float) -> str:
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    print_report(json.loads(Path(sys.argv[1]).read_text())["turns"], Console(width=WIDTH))
