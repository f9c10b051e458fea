"""The client of a contestant: a process that publishes events and sends requests when the harness orders it.

    python -m tests.benchmarks.clients <module of contestants/>

reads one order a line from its input and writes one result a line. A contestant's module defines `Client`: a SyncClient
or an AsyncClient, whichever its users write.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any


class SyncClient(ABC):
    """A client whose library blocks. Callers are threads."""

    @abstractmethod
    def publish_one(self, number: int) -> None: ...

    @abstractmethod
    def request_one(self, number: int) -> int: ...

    def publish(self, first: int, count: int, rate_hz: float | None = None) -> float:
        """Publish events one after the other, at most `rate_hz` a second; return the seconds that it took."""
        began = time.monotonic()
        for position in range(count):
            if rate_hz:
                time.sleep(max(began + position / rate_hz - time.monotonic(), 0))
            self.publish_one(first + position)
        return time.monotonic() - began

    def request(self, callers: int, count: int) -> dict[str, object]:
        """Send requests from several callers at once; return each one's milliseconds, and the seconds of all."""

        def call(number: int) -> float:
            began = time.monotonic()
            _check(number, self.request_one(number))
            return (time.monotonic() - began) * 1_000

        with ThreadPoolExecutor(callers) as pool:
            began = time.monotonic()
            times = list(pool.map(call, range(count)))
            return {"times_ms": times, "seconds": time.monotonic() - began}


class AsyncClient(ABC):
    """A client whose library is asynchronous. Callers are tasks of one event loop."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self._runner.run(self.connect())

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def publish_one(self, number: int) -> None: ...

    @abstractmethod
    async def request_one(self, number: int) -> int: ...

    def publish(self, first: int, count: int, rate_hz: float | None = None) -> float:
        """As SyncClient's."""
        return self._runner.run(self._publish(first, count, rate_hz))

    def request(self, callers: int, count: int) -> dict[str, object]:
        """As SyncClient's."""
        return self._runner.run(self._request(callers, count))

    async def _publish(self, first: int, count: int, rate_hz: float | None) -> float:
        began = time.monotonic()
        for position in range(count):
            if rate_hz:
                await asyncio.sleep(max(began + position / rate_hz - time.monotonic(), 0))
            await self.publish_one(first + position)
        return time.monotonic() - began

    async def _request(self, callers: int, count: int) -> dict[str, object]:
        numbers = iter(range(count))
        times: list[float] = []

        async def call_repeatedly() -> None:
            for number in numbers:
                began = time.monotonic()
                _check(number, await self.request_one(number))
                times.append((time.monotonic() - began) * 1_000)

        began = time.monotonic()
        await asyncio.gather(*(call_repeatedly() for _ in range(callers)))
        return {"times_ms": times, "seconds": time.monotonic() - began}


def _check(number: int, reply: int) -> None:
    if reply != number:
        raise AssertionError(f"requested {number}, got {reply!r}")


def main() -> None:
    client: Any = import_module(f"tests.benchmarks.contestants.{sys.argv[1]}").Client()
    # Libraries may write to the standard output; results have a line to themselves.
    for line in sys.stdin:
        order = json.loads(line)
        result = getattr(client, order.pop("do"))(**order)
        sys.stdout.write(json.dumps({"result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
