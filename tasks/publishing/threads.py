"""Threads for the `aio` functions: they run blocking broker calls, so that the asyncio loop is not blocked.

The pool is separate and small. `asyncio.to_thread` would use the loop's default threads, which the user's code and name
resolution need as well; a stalled broker would occupy all of them. Publishing has one implementation, a synchronous
client in a thread, because an asynchronous one would have to keep the same guarantees a second time.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from petiole.events.errors import BrokerUnavailable

Result = TypeVar("Result")

THREADS = 4
"""Threads per process. A publish takes about 1 ms, most of it Python code, which one thread runs at a time."""

STALL_TIMEOUT_S = 10.0
"""How long a call waits for a free thread while no call succeeds; the same as the timeout of the clients."""


def submit(function: Callable[[], Result]) -> Future[Result]:
    """Run a function in one of the threads, with the caller's context variables."""
    return _pool(os.getpid()).submit(function)


async def run_in_thread(function: Callable[[], Result], operation: str) -> Result:
    """Run a function in one of the threads and wait for it; errors name the operation.

    If the call is cancelled before the function has started, the function never runs; otherwise it runs to its end and
    the result is discarded.

    Raises:
        BrokerUnavailable: all threads are blocked; the function never runs. Otherwise as the function.
    """
    pool = _pool(os.getpid())
    future = pool.submit(function)
    result = asyncio.wrap_future(future)
    succeeded: int | None = None
    try:
        while not (future.running() or future.done()):
            if succeeded == pool.succeeded and future.cancel():
                raise BrokerUnavailable(operation)
            succeeded = pool.succeeded
            await asyncio.wait({result}, timeout=STALL_TIMEOUT_S)
        return await result
    finally:
        # If this coroutine was cancelled: do not start the function, nor log its error as never retrieved.
        future.cancel()
        result.cancel()


class _Pool:
    def __init__(self) -> None:
        self.succeeded = 0
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="petiole-aio")

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        return self._executor.submit(contextvars.copy_context().run, self._run, function)

    def _run(self, function: Callable[[], Result]) -> Result:
        result = function()
        self.succeeded += 1  # may miss concurrent increments; only a change matters
        return result


@cache
def _pool(process_id: int) -> _Pool:  # noqa: ARG001 - the cache key: a forked child has none of its parent's threads
    return _Pool()
