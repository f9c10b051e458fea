"""Loops: where coroutines run. One asyncio loop for each process, made when the first coroutine comes.

    run(coroutine)     run it to its end, in the loop of this process

The main thread drives the loop itself (Celery's prefork and solo pools handle there). Threads share a loop that runs in
a thread of its own (the threads pool, the harness). So a client that belongs to a loop, as those of HTTP libraries do,
can be made once and serve every handler. What one run hands to the next, asyncio.run() would throw away each time.

A coroutine sees the context variables of its caller. It does not outlive its run: whatever way it ends, what it started
and did not await is cancelled and awaited too, as asyncio.run() does. A task that shall stay, say so:
`asyncio.create_task(..., context=contextvars.Context())`.

The loop is closed when its process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextvars import Context, ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

from celery import signals

Result = TypeVar("Result")

CLEANUP_LIMIT_S = 5.0
"""How long what was cancelled may take to end."""

log = logging.getLogger(__name__)

# What the run at hand has started; unset in tasks that were given a context of their own.
_started: ContextVar[WeakSet[asyncio.Task[Any]] | None] = ContextVar("petiole_started", default=None)


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, from the thread that handles. Raises what the coroutine raises.

    Raises: concurrent.futures.CancelledError where the coroutine cancelled itself.
    """
    loops = _loops_of_this_process()
    if threading.current_thread() is threading.main_thread():
        return loops.run_here(_alone(coroutine))
    return loops.run_in_background(_alone(coroutine))


def close() -> None:
    """Cancel what still runs, and close the loop of this process. Safe to repeat; the next run makes a new one."""
    if (loops := _processes.pop(os.getpid(), None)) is not None:
        loops.close()


class _Loops:
    """The loop that the main thread drives, and the one in the background; hardly ever both in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here: asyncio.AbstractEventLoop | None = None
        self._background: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run_here(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        self._here = loop = self._here or _new_loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError as error:
            # As it comes out of the other loop: an error, where asyncio's would pass for an order to stop.
            raise CancelledError from error
        finally:
            # A signal's exception may come out of the loop instead of the coroutine: a time limit, an end by SIGTERM.
            if not task.done():
                self._drain(task, loop)

    def run_in_background(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._running()).result()

    def close(self) -> None:
        if self._here is not None:
            self._here.run_until_complete(_end_all(self._here))
            self._here.close()
        if self._background is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_end_all(self._background), self._background).result()
            self._background.call_soon_threadsafe(self._background.stop)
            self._thread.join()
            self._background.close()

    def _drain(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(_end({task}))
        if not task.done():
            # It refuses to end. On a closed loop it never runs again, at the price of whatever else the loop held.
            self._here = None
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._background is None:
                self._background = _new_loop()
                # A daemon: Python joins all other threads before it calls what is registered to run at its end.
                self._thread = threading.Thread(target=self._background.run_forever, name="petiole-loop", daemon=True)
                self._thread.start()
            return self._background


# By process: a forked child must neither use nor close its parent's, which share their file descriptors with it.
_processes: dict[int, _Loops] = {}
_processes_lock = threading.Lock()


def _loops_of_this_process() -> _Loops:
    with _processes_lock:
        return _processes.get(os.getpid()) or _processes.setdefault(os.getpid(), _Loops())


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(_note_task)
    return loop


def _note_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context: Context | None = options.get("context")
    started = _started.get() if context is None else context.get(_started)
    if started is not None:
        started.add(task)
    return task


async def _alone(coroutine: Coroutine[Any, Any, Result]) -> Result:
    started: WeakSet[asyncio.Task[Any]] = WeakSet()
    _started.set(started)
    try:
        return await coroutine
    finally:
        await _end({task for task in started if not task.done()})


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _, unended = await asyncio.wait(tasks, timeout=CLEANUP_LIMIT_S)
        if unended:
            log.warning("coroutine.unended", extra={"tasks": len(unended)})


async def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    await _end(asyncio.all_tasks(loop) - {asyncio.current_task()})
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


@signals.worker_process_shutdown.connect(weak=False)
def _close_with_the_child(**_: object) -> None:
    close()


# A prefork child leaves by os._exit, which calls nothing of this kind; all other processes do.
atexit.register(close)
