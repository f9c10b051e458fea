"""Measure Petiole beside plain Celery, FastStream, huey and dramatiq, in interleaved rounds on one machine.

    make bench                              everything, five rounds: about three hours
    make bench ARGS=--quick                 about six minutes: four contestants and measures, three rounds
    make bench ARGS="--only petiole,huey --measures drain,latency --rounds 3 --scale 0.5"

In each round each contestant has its turn at each measure, on a fresh broker. The turns are kept as JSON in build/bench
as soon as they end, and medians and ratios are printed at the end. docs/performance.md tells what is measured how.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.benchmarks import growth, measures
from tests.benchmarks.contestants import CONTESTANTS, Contestant
from tests.benchmarks.counters import CountsDifferError
from tests.benchmarks.crash import crash
from tests.benchmarks.imports import PROGRAMS, imports
from tests.benchmarks.machine import describe_machine, load
from tests.benchmarks.measures import Bench, Figures
from tests.benchmarks.observability import observability
from tests.benchmarks.report import WIDTH, print_report
from tests.benchmarks.runs import PYTHONS, ROOT, ContestantError
from tests.benchmarks.servers import fresh_server


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure, of all contestants or of some; `once` is for what takes long and is not compared."""

    function: Callable[[Bench, Contestant], Figures]
    contestants: Collection[str] = tuple(CONTESTANTS)
    once: bool = False


MEASURES = {
    "publish": Measure(measures.publish),
    "drain": Measure(measures.drain),
    "steady": Measure(measures.steady),
    "latency": Measure(measures.latency),
    "request": Measure(measures.request),
    "memory": Measure(measures.memory),
    "server": Measure(measures.server),
    "idle": Measure(measures.idle),
    "crash": Measure(crash),
    "imports": Measure(imports, tuple(PROGRAMS)),
    "observability": Measure(observability, ("petiole", "petiole-solo")),
    "concurrency": Measure(growth.concurrency, ("petiole-threads",)),
    "subscriptions": Measure(growth.subscriptions, ("petiole-solo",), once=True),
    "backlog": Measure(growth.backlog, ("petiole", "petiole-solo"), once=True),
}
QUICK_CONTESTANTS = ("petiole-solo", "petiole", "faststream", "huey")
QUICK_MEASURES = ("publish", "drain", "latency", "request")
QUICK_ROUNDS, ROUNDS = 3, 5
QUICK_SCALE = 0.4
QUIET_LOAD = 0.5

console = Console(width=WIDTH)


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's turn at one measure; without figures if it failed."""

    round: int
    contestant: str
    measure: str
    figures: Figures
    error: str
    load: float
    seconds: float


def main() -> int:
    options = _parse_options()
    kept = ROOT / "build" / "bench" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    with fresh_server() as counts_url:
        bench = Bench(counts_url, options.scale, options.aof)
        run = {
            "command": " ".join(sys.argv[1:]),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": vars(options),
            **describe_machine(counts_url),
            "configurations": {name: CONTESTANTS[name].configuration for name in options.only},
        }
        if load() > QUIET_LOAD:
            console.print(f"The load is {load()}: figures of a busy machine say little.")
        turns: list[Turn] = []
        for turn in _take_turns(bench, options.only, options.measures, options.rounds):
            turns.append(turn)
            _keep(kept, {**run, "turns": [asdict(each) for each in turns]})
    print_report([asdict(turn) for turn in turns], console)
    console.print(f"kept in {kept.relative_to(ROOT)}")
    return 1 if any(turn.error for turn in turns) else 0


def _take_turns(bench: Bench, names: Sequence[str], chosen: Sequence[str], rounds: int) -> Iterator[Turn]:
    for number in range(1, rounds + 1):
        for measure in chosen:
            if MEASURES[measure].once and number > 1:
                continue
            for name in (name for name in names if name in MEASURES[measure].contestants):
                turn = _take_turn(bench, CONTESTANTS[name], measure, number)
                figures = turn.error or ", ".join(f"{key} {value:.5g}" for key, value in turn.figures.items())
                console.print(f"{number}/{rounds} {measure:8} {name:18} {turn.seconds:4.0f} s  {figures}")
                yield turn


def _take_turn(bench: Bench, contestant: Contestant, measure: str, number: int) -> Turn:
    began, load_before = time.monotonic(), load()
    figures: Figures = {}
    error = ""
    try:
        figures = MEASURES[measure].function(bench, contestant)
    except (ContestantError, TimeoutError, CountsDifferError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Turn(number, contestant.name, measure, figures, error, load_before, time.monotonic() - began)


def _keep(path: Path, run: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few contestants, measures and rounds: about six minutes"
    )
    parser.add_argument("--only", type=_names(CONTESTANTS), help="contestants, separated by commas")
    parser.add_argument("--measures", type=_names(MEASURES), help="measures, separated by commas")
    parser.add_argument("--rounds", type=int, help=f"rounds, by default {ROUNDS}")
    parser.add_argument("--scale", type=float, help="multiplies numbers of events and durations")
    parser.add_argument("--aof", action="store_true", help="let the brokers write the append-only file every second")
    options = parser.parse_args()
    options.only = options.only or (QUICK_CONTESTANTS if options.quick else tuple(CONTESTANTS))
    options.measures = options.measures or (QUICK_MEASURES if options.quick else tuple(MEASURES))
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.scale = options.scale or (QUICK_SCALE if options.quick else 1.0)
    if not all(Path(python).exists() for python in PYTHONS.values()):
        parser.error("the contestants are not installed; `make bench` installs them")
    return options


def _names(known: Mapping[str, object]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
