"""What handlers count, and what the harness reads of it.

A handler calls `handle(subscriber, number, sent_at)`. Each process counts in memory, and a thread writes the counts
every 100 ms to a Redis server of their own, so counting costs a handler less than a microsecond and the measured broker
nothing. With BENCH_WORK_MS a handler sleeps so long and then writes its one execution at once: the process may be
killed at any moment.

The harness reads the counts through `Counts`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import redis

SUBSCRIBERS = int(os.environ.get("BENCH_SUBSCRIBERS", "3"))
WORK_S = float(os.environ.get("BENCH_WORK_MS", "0")) / 1_000
BUCKETS_PER_S = 100

_FLUSH_S = 0.1
_KEEPS_LATENCIES = "BENCH_LATENCIES" in os.environ


def handle(subscriber: int, number: int, sent_at: float) -> None:
    """Count one execution of a handler; the times of sender and handler are of the same clock."""
    started = time.monotonic()
    if WORK_S:
        time.sleep(WORK_S)
    _count(subscriber, number, started, started - sent_at)


async def handle_async(subscriber: int, number: int, sent_at: float) -> None:
    """Count one execution of an asynchronous handler."""
    started = time.monotonic()
    if WORK_S:
        await asyncio.sleep(WORK_S)
    _count(subscriber, number, started, started - sent_at)


def report_ready() -> None:
    """Tell the harness that one process of the node takes events."""
    _connect().incr("ready")


def _connect() -> redis.Redis:
    return redis.Redis.from_url(os.environ["BENCH_COUNTS_URL"])


class _Process:
    """The counts of this process since the last flush."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.client = _connect()
        self.clear()
        threading.Thread(target=self.flush_for_ever, daemon=True).start()

    def clear(self) -> None:
        self.counts: Counter[int] = Counter()
        self.sums: Counter[int] = Counter()
        self.buckets: Counter[int] = Counter()
        self.latencies: list[float] = []

    def flush_for_ever(self) -> None:
        while True:
            time.sleep(_FLUSH_S)
            self.flush()

    def flush(self) -> None:
        with self.lock:
            counts, sums, buckets, latencies = self.counts, self.sums, self.buckets, self.latencies
            self.clear()
        if not counts:
            return
        pipeline = self.client.pipeline()
        for name, values in (("counts", counts), ("sums", sums), ("buckets", buckets)):
            for field, value in values.items():
                pipeline.hincrby(name, str(field), value)
        if latencies:
            pipeline.rpush("latencies", *latencies)
        pipeline.execute()


_process: _Process | None = None
_starting = threading.Lock()


def _count(subscriber: int, number: int, started: float, latency_s: float) -> None:
    process = _process if _process is not None and _process.pid == os.getpid() else _start_process()
    if WORK_S:
        process.client.rpush("executions", number)
    with process.lock:
        process.counts[subscriber] += 1
        process.sums[subscriber] += number
        process.buckets[int(started * BUCKETS_PER_S)] += 1
        if _KEEPS_LATENCIES:
            process.latencies.append(latency_s)


def _start_process() -> _Process:
    """Start counting in this process: a forked child has the parent's memory without its threads."""
    global _process  # noqa: PLW0603 - handlers are plain functions
    with _starting:
        if _process is None or _process.pid != os.getpid():
            _process = _Process()
        return _process


class CountsDifferError(AssertionError):
    """A contestant lost or repeated executions of handlers."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of all processes, as the harness reads them."""

    client: redis.Redis

    def clear(self) -> None:
        """Forget all counts; nothing may be in the queues."""
        self.client.flushdb()

    def ready(self) -> int:
        """Count the processes that reported to be ready."""
        return int(self.client.get("ready") or 0)

    def total(self) -> int:
        """Count the executions of all subscribers."""
        return sum(self._read("counts").values())

    def executions(self) -> Counter[int]:
        """Count the executions of each event of handlers that work."""
        return Counter(int(number) for number in self.client.lrange("executions", 0, -1))

    def latencies_ms(self) -> list[float]:
        """List the times from publication to the start of a handler."""
        return [float(latency) * 1_000 for latency in self.client.lrange("latencies", 0, -1)]

    def wait_for(self, events: int, subscribers: int, stall_s: float) -> None:
        """Wait until events number 1 to `events` were handled once by each subscriber, and check that.

        Raises:
            TimeoutError: nothing was handled for `stall_s` seconds.
            CountsDifferError: a subscriber handled others than these events, or some of them twice.
        """
        self._wait_until(lambda: self.total() >= events * subscribers, stall_s)
        time.sleep(2 * _FLUSH_S)  # an execution too many would be counted by then
        expected = (events, events * (events + 1) // 2)
        counts, sums = self._read("counts"), self._read("sums")
        actual = {subscriber: (counts.get(subscriber, 0), sums.get(subscriber, 0)) for subscriber in range(subscribers)}
        wrong = {subscriber: found for subscriber, found in actual.items() if found != expected}
        if wrong:
            raise CountsDifferError(
                f"count and sum of the event numbers should be {expected} per subscriber; got {wrong}"
            )

    def rate(self, first_share: float = 0.1, last_share: float = 0.9) -> float:
        """Return executions per second between two shares of the work, which leaves out start and end."""
        buckets = sorted(self._read("buckets").items())
        total, handled, first = sum(count for _, count in buckets), 0, None
        for bucket, count in buckets:
            handled += count
            if first is None and handled >= total * first_share:
                first = (bucket, handled)
            if first is not None and handled >= total * last_share:
                return (handled - first[1]) / max(bucket - first[0], 1) * BUCKETS_PER_S
        raise CountsDifferError("nothing was handled")

    def handled_between(self, began: float, ended: float) -> int:
        """Count the executions that started between two times of the machine's monotonic clock, to 10 ms."""
        first, last = int(began * BUCKETS_PER_S), int(ended * BUCKETS_PER_S)
        return sum(count for bucket, count in self._read("buckets").items() if first <= bucket < last)

    def last_handled_at(self) -> float:
        """Return the time of the last execution, of the machine's monotonic clock."""
        return (max(self._read("buckets")) + 1) / BUCKETS_PER_S

    def _wait_until(self, condition: Callable[[], bool], stall_s: float) -> None:
        changed_at, seen = time.monotonic(), -1
        while not condition():
            if (total := self.total()) != seen:
                changed_at, seen = time.monotonic(), total
            elif time.monotonic() - changed_at > stall_s:
                raise TimeoutError(f"{seen} executions, and no other for {stall_s:g} s")
            time.sleep(0.05)

    def _read(self, name: str) -> dict[int, int]:
        return {int(field): int(value) for field, value in self.client.hgetall(name).items()}
