"""Compare Petiole with plain Celery in one run on one machine: publishing, draining queues, requests.

    make bench

Plain Celery is tuned as its users tune it: no results, events, gossip, mingle or heartbeat; late acks; prefetch 128.
It publishes with one apply_async per subscriber, over one connection to the same broker. "Lean" omits argsrepr, the
text of the arguments that Celery adds to each message. Rounds are interleaved and each ratio is computed within one
round, because machines are noisy. docs/performance.md contains figures.

    BENCH_ROUNDS, BENCH_PUBLISHED, BENCH_DRAINED, BENCH_ROUND_TRIPS    the sizes of the runs
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from rich.console import Console
from rich.table import Table
from roundtrips import percentiles, round_trips  # type: ignore[import-not-found]  # beside this file, in no package

from petiole.events import TextContent, TextMessageEvent
from petiole.events.subscriptions import Subscription
from petiole.tasks.publication import PUBLISH_BATCH_SIZE
from petiole.workers.process import embedded_broker
from tests.support.apps import a_bus, publish_all_once, publish_once
from tests.support.inside import Inside

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
DRAIN_ROUNDS = max(ROUNDS - 1, 1)
PUBLISHED = int(os.environ.get("BENCH_PUBLISHED", "400"))
DRAINED = int(os.environ.get("BENCH_DRAINED", "1500"))
SUBSCRIBERS = 3
SLICES = 8
DRAIN_LIMIT_S = 240


def an_event() -> TextMessageEvent:
    return TextMessageEvent(stream_id="bench", content=TextContent(text="x" * 100))


def subscriptions(count: int) -> list[Subscription]:
    return [Subscription(agent=f"bench-{number}", function="hear", patterns=("input.*",)) for number in range(count)]


def us_per_event(operation: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        operation()
    return (time.perf_counter() - began) / count * 1e6


def publish_costs(url: str, subscribers: int) -> tuple[float, float, float, float]:
    """Measure publish, publish_many, plain Celery and lean Celery, in microseconds per event."""
    client = redis.Redis.from_url(url)
    client.flushall()
    bus = a_bus(url, *subscriptions(subscribers))
    plain = Celery("plain", broker=url, set_as_current=False)
    plain.conf.task_ignore_result = True

    def ours() -> None:
        publish_once(bus, an_event())

    def ours_together() -> None:
        publish_all_once(bus, [an_event() for _ in range(PUBLISH_BATCH_SIZE)])

    def theirs(**options: Any) -> None:
        document = an_event().model_dump(mode="json")
        for number in range(subscribers):
            queue = f"plain-{number}"
            plain.send_task(f"{queue}.ignore", args=(document,), queue=queue, ignore_result=True, **options)

    def theirs_lean() -> None:
        theirs(argsrepr="", kwargsrepr="")

    # In interleaved slices, so that other load on the machine affects all four alike.
    slice_size = max(PUBLISHED // SLICES, 1)
    plain_size = max(slice_size // subscribers, 5)
    contestants = ((ours, slice_size), (ours_together, 1), (theirs, plain_size), (theirs_lean, plain_size))
    for operation, _ in contestants:
        us_per_event(operation, 5)
    slices = [[us_per_event(operation, count) for operation, count in contestants] for _ in range(SLICES)]
    plain.close()
    one_by_one, many, plain_cost, lean = (statistics.median(costs) for costs in zip(*slices, strict=True))
    return one_by_one, many / PUBLISH_BATCH_SIZE, plain_cost, lean


def drain_rate(url: str, home: Path, command: list[str], queues: list[str], environment: dict[str, str]) -> float:
    """Start two workers on filled queues, and return the events per second that all subscribers have handled.

    Measured between 10 % and 90 % of the work, by the number of queued and unacknowledged messages.
    """
    inside = Inside(url)

    def left() -> int:
        return inside.queue_depth(*queues) + inside.unacknowledged()

    total = left()
    moments: list[tuple[float, int]] = []
    with workers(command, home, environment):
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while (now_left := left()) > 0:
            moments.append((time.monotonic(), now_left))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{now_left} of {total} deliveries were not handled within {DRAIN_LIMIT_S} s")
            time.sleep(0.01)
        moments.append((time.monotonic(), 0))
    first = next(at for at, count in moments if count <= total * 0.9)
    last = next(at for at, count in moments if count <= total * 0.1)
    return 0.8 * total / SUBSCRIBERS / (last - first)


@contextmanager
def workers(command: list[str], home: Path, environment: dict[str, str]) -> Iterator[None]:
    processes = []
    for number in range(2):
        with (home / f"worker-{number}.log").open("ab") as log:
            name = ["-n", f"bench-{number}@%h"]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "celery", *command, *name], env=environment, cwd=HERE, stdout=log, stderr=log
                )
            )
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def drain(url: str, home: Path, pool: list[str], *, batch: int = 0) -> float:
    """Drain events with Petiole's workers."""
    redis.Redis.from_url(url).flushall()
    bus = a_bus(url, *subscriptions(SUBSCRIBERS))
    for _ in range(DRAINED // 100):
        publish_all_once(bus, [an_event() for _ in range(100)])
    queues = [f"bench-{number}" for number in range(SUBSCRIBERS)]
    environment = os.environ | {"PETIOLE_BROKER_URL": url, "PETIOLE_AGENTS": "contestants", "BENCH_BATCH": str(batch)}
    command = ["-A", "workers", "worker", "-l", "ERROR", "--prefetch-multiplier", "64"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return drain_rate(url, home, [*command, *pool], queues, environment)


def drain_plain(url: str, home: Path, pool: list[str]) -> float:
    """Drain the same events with plain Celery's workers."""
    redis.Redis.from_url(url).flushall()
    plain = Celery("plain", broker=url, set_as_current=False)
    document = an_event().model_dump(mode="json")
    for number in range(SUBSCRIBERS):
        for _ in range(DRAINED // 2):
            plain.send_task(f"plain-{number}.ignore", args=(document,), queue=f"plain-{number}", ignore_result=True)
    queues = [f"plain-{number}" for number in range(SUBSCRIBERS)]
    environment = os.environ | {"PETIOLE_BROKER_URL": url}
    command = ["-A", "contestants:plain", "worker", "-l", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    rate = drain_rate(url, home, [*command, *pool], queues, environment)
    plain.close()
    return rate


def main() -> None:
    # Wide enough for the tables, also if the output is a file.
    console = Console(width=140)
    machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {load}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url = embedded_broker.start_broker(home / "broker").url
        try:
            console.print(_publishing(url))
            console.print(_draining(url, home))
            console.print(_round_trips(url, home))
        finally:
            embedded_broker.stop_broker(home / "broker")


def _publishing(url: str) -> Table:
    table = _table(
        "publishing, us per event (median); x: plain Celery's time divided by ours (lowest and highest round)",
        *("subscribers", "publish", "publish_many", "plain Celery", "lean", "x", "x lean", "x of publish_many"),
    )
    for subscribers in (1, 3, 10):
        rounds = [publish_costs(url, subscribers) for _ in range(ROUNDS)]
        ratios = (
            _ratio([plain / ours for ours, _, plain, _ in rounds]),
            _ratio([lean / ours for ours, _, _, lean in rounds]),
            _ratio([plain / many for _, many, plain, _ in rounds]),
        )
        medians = (statistics.median(costs) for costs in zip(*rounds, strict=True))
        table.add_row(str(subscribers), *(f"{median:.0f}" for median in medians), *ratios)
    return table


def _round_trips(url: str, home: Path) -> Table:
    table = _table(
        "request and reply, ms; x: Petiole's median divided by plain Celery's",
        *("callers", "p50", "p99", "plain Celery's p50", "p99", "x"),
    )
    for callers, ours, theirs in round_trips(url, home, a_bus(url)):
        (p50, p99), (plain_p50, plain_p99) = percentiles(ours), percentiles(theirs)
        figures = (f"{time_ms:.2f}" for time_ms in (p50, p99, plain_p50, plain_p99))
        table.add_row(str(callers), *figures, f"{p50 / plain_p50:.2f}")
    return table


def _draining(url: str, home: Path) -> Table:
    table = _table(
        "draining, events/s with 3 subscribers, 2 workers (median); x: Petiole's rate divided by plain Celery's",
        *("pool", "Petiole", "with batch=32", "plain Celery", "x", "x with batch=32"),
    )
    for label in ("solo", "threads -c 4", "prefork -c 2"):
        pool = ["--pool", *label.split()]
        rounds = [
            (drain(url, home, pool), drain(url, home, pool, batch=32), drain_plain(url, home, pool))
            for _ in range(DRAIN_ROUNDS)
        ]
        ratios = (
            _ratio([ours / plain for ours, _, plain in rounds]),
            _ratio([batched / plain for _, batched, plain in rounds]),
        )
        medians = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        table.add_row(label, *(f"{median:.0f}" for median in medians), *ratios)
    return table


def _ratio(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.1f} ({min(rounds):.1f}-{max(rounds):.1f})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    main()
