"""Threads for the `aio` functions: blocking calls to the broker run here, so that an asyncio loop goes on meanwhile.

The pool is our own and small. `asyncio.to_thread` would use the loop's default threads, which the user's code and name
resolution need as well; a stalled broker would occupy all of them. A synchronous client in a thread is the one
implementation of publishing; a second, asynchronous one would have to keep the same guarantees.
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
"""Threads of a process. A publish takes about a millisecond, most of it Python's, which one thread runs at a time."""

STALL_TIMEOUT_S = 10.0
"""How long a call waits for a free thread while no call succeeds; as long as the clients wait for the broker."""


def submit(act: Callable[[], Result]) -> Future[Result]:
    """Run a function in one of the threads, with the caller's context variables."""
    return _pool(os.getpid()).submit(act)


async def run_in_thread(act: Callable[[], Result], what: str) -> Result:
    """Run a function in one of the threads and wait for it; `what` tells in errors what was being done.

    Cancelled before it has begun, the function never runs; afterwards it runs to its end, and the result is dropped.
    Raises: as `act`; BrokerUnavailable where all threads are blocked, and the function never runs.
    """
    pool = _pool(os.getpid())
    future = pool.submit(act)
    result = asyncio.wrap_future(future)
    succeeded: int | None = None
    try:
        while not (future.running() or future.done()):
            if succeeded == pool.succeeded and future.cancel():
                raise BrokerUnavailable(what)
            succeeded = pool.succeeded
            await asyncio.wait({result}, timeout=STALL_TIMEOUT_S)
        return await result
    finally:
        # Where this coroutine was cancelled: neither begin the function, nor log its error as never retrieved.
        future.cancel()
        result.cancel()


class _Pool:
    def __init__(self) -> None:
        self.succeeded = 0
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="petiole-aio")

    def submit(self, act: Callable[[], Result]) -> Future[Result]:
        return self._executor.submit(contextvars.copy_context().run, self._run, act)

    def _run(self, act: Callable[[], Result]) -> Result:
        result = act()
        self.succeeded += 1  # approximate: it only tells whether calls succeed at all
        return result


@cache
def _pool(process_id: int) -> _Pool:  # noqa: ARG001 - a forked child has none of its parent's threads
    return _Pool()
