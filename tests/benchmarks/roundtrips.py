"""Compare a request and its reply with plain Celery's `.delay().get()`; part of bench.py.

Each side has one worker with two processes, which returns its argument. Plain Celery stores its results on the same
server; its tasks have no deadline, and its results are not deleted. Slices are interleaved.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import TypeAlias

import redis
from celery import Celery

from petiole.tasks import EventBus
from petiole.tasks.requests.requester import Requester

HERE = Path(__file__).parent
ROUND_TRIPS = int(os.environ.get("BENCH_ROUND_TRIPS", "1500"))
SLICES = 6
CALLERS = (1, 16)
READY_S = 30

Call: TypeAlias = Callable[[int], object]


def round_trips(url: str, home: Path, bus: EventBus) -> Iterator[tuple[int, list[float], list[float]]]:
    """Yield for each number of callers the times of Petiole's and of plain Celery's calls, in ms."""
    redis.Redis.from_url(url).flushall()
    plain = Celery("plain", broker=url, backend=url, set_as_current=False)
    ask = Requester(bus)

    def ours(number: int) -> object:
        return ask("echo", responder="bench-0", timeout=30, number=number).get().value

    def theirs(number: int) -> object:
        return plain.send_task("plain-0.echo", kwargs={"number": number}, queue="plain-0").get(timeout=30)

    with _worker("-A", "workers", home=home, url=url), _worker("-A", "contestants:plain", home=home, url=url):
        for call in (ours, theirs):
            _await(call)
            _measured(call, callers=4, count=100)
        for callers in CALLERS:
            mine: list[float] = []
            others: list[float] = []
            for _ in range(SLICES):
                mine += _measured(ours, callers=callers, count=ROUND_TRIPS // SLICES)
                others += _measured(theirs, callers=callers, count=ROUND_TRIPS // SLICES)
            yield callers, mine, others
    plain.close()


def percentiles(took_ms: list[float]) -> tuple[float, float]:
    """Return the 50th and 99th percentile."""
    cuts = statistics.quantiles(took_ms, n=100)
    return cuts[49], cuts[98]


def _measured(call: Call, *, callers: int, count: int) -> list[float]:
    def timed(number: int) -> float:
        began = time.perf_counter()
        answer = call(number)
        took_s = time.perf_counter() - began
        if answer != number:
            raise AssertionError(f"requested {number}, got {answer!r}")
        return took_s * 1_000

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(timed, range(count)))


def _await(call: Call) -> None:
    """Repeat a call until a worker replies."""
    deadline = time.monotonic() + READY_S
    while call(1) != 1:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no worker replied within {READY_S} s")
        time.sleep(0.1)


@contextmanager
def _worker(*app: str, home: Path, url: str) -> Iterator[None]:
    name = app[1].partition(":")[0]
    environment = os.environ | {"PETIOLE_BROKER_URL": url, "PETIOLE_AGENTS": "contestants"}
    command = [sys.executable, "-m", "celery", *app, "worker", "-l", "ERROR", "-n", f"round-trips-{name}@%h"]
    command += ["--pool", "prefork", "-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    with (home / f"round-trips-{name}.log").open("ab") as log:
        process = Popen(command, env=environment, cwd=HERE, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
