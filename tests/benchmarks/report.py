"""What is printed of a benchmark: medians of the rounds with their least and most, and ratios.

    python -m tests.benchmarks.report build/bench/<run>.json        prints a kept run again

Ratios compare within each round, because machines are noisy.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

Turn: TypeAlias = Mapping[str, Any]

COLUMNS = {
    "publish_us_1": "publish, µs: 1 subscriber",
    "publish_us_3": "3",
    "publish_us_10": "10",
    "publish_many_us_1": "publish_many, µs: 1",
    "publish_many_us_3": "3",
    "publish_many_us_10": "10",
    "publish_delay_us_1": "publish.delay, µs: 1",
    "publish_delay_us_3": "3",
    "publish_delay_us_10": "10",
    "drain_per_s": "drain, events/s",
    "steady_per_s": "steady, events/s",
    "latency_p50_ms": "latency, ms: p50",
    "latency_p99_ms": "p99",
    "request_p50_ms": "request, ms: p50",
    "request_p99_ms": "p99",
    "request_16_p50_ms": "16 callers: p50, ms",
    "request_16_per_s": "requests/s",
    "queued_bytes": "bytes queued, per event and subscriber",
    "left_bytes": "bytes left, per event",
    "idle_rss_mb": "idle node, MB: RSS",
    "idle_pss_mb": "PSS",
    "idle_commands_per_s": "idle commands/s: node",
    "idle_commands_per_s_and_worker": "worker",
    "never_handled": "never handled",
    "run_twice": "run twice",
    "recovered_s": "all handled, s after the restart was ready",
    "import_ms": "ms",
    "import_modules": "modules",
}
"""The columns, and what stands above each; figures of growth have names of their own and follow."""

BASES = ("faststream", "huey", "celery")


def print_report(turns: Sequence[Turn], console: Console) -> None:
    """Print one table of figures and one of ratios for each measure."""
    for measure in dict.fromkeys(turn["measure"] for turn in turns):
        rounds = _by_contestant(turn for turn in turns if turn["measure"] == measure)
        console.print(_figures(measure, rounds))
        for base in BASES:
            if base in rounds and len(rounds) > 1:
                console.print(_ratios(measure, rounds, base))
        console.print()


def _by_contestant(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    grouped: defaultdict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        grouped[turn["contestant"]].append(turn)
    return dict(grouped)


def _figures(measure: str, rounds: Mapping[str, Sequence[Turn]]) -> Table:
    columns = _columns(rounds)
    table = _table(f"{measure}: median (least-most)", columns)
    for contestant, turns in rounds.items():
        values = ([turn["figures"][column] for turn in turns if column in turn["figures"]] for column in columns)
        table.add_row(contestant, *(_spread(figures) for figures in values), _failures(turns))
    return table


def _ratios(measure: str, rounds: Mapping[str, Sequence[Turn]], base: str) -> Table:
    """Compare each contestant with one of them: the median of the rounds' ratios."""
    columns = [column for column in _columns(rounds) if any(column in turn["figures"] for turn in rounds[base])]
    table = _table(f"{measure}: times the figure of {base}", columns)
    base_by_round = {turn["round"]: turn["figures"] for turn in rounds[base]}
    for contestant, turns in rounds.items():
        if contestant == base:
            continue
        ratios = (
            [
                turn["figures"][column] / base_by_round[turn["round"]][column]
                for turn in turns
                if column in turn["figures"] and base_by_round.get(turn["round"], {}).get(column)
            ]
            for column in columns
        )
        table.add_row(contestant, *(_spread(values) for values in ratios), "")
    return table


def _columns(rounds: Mapping[str, Sequence[Turn]]) -> list[str]:
    present = dict.fromkeys(column for turns in rounds.values() for turn in turns for column in turn["figures"])
    return [column for column in COLUMNS if column in present] + [name for name in present if name not in COLUMNS]


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for column in columns:
        table.add_column(COLUMNS.get(column, column), justify="right")
    table.add_column("")
    return table


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    median, least, most = (_format(value) for value in (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least}-{most})"


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _failures(turns: Sequence[Turn]) -> str:
    failed = sum(1 for turn in turns if turn["error"])
    return f"{failed} of {len(turns)} rounds failed" if failed else ""


if __name__ == "__main__":
    print_report(json.loads(Path(sys.argv[1]).read_text())["turns"], Console(width=180))
