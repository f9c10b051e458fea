"""Event loop: one asyncio loop for each process, made when the first coroutine comes, for all async handlers.

    run(coroutine)     run it to its end, in the loop of this process

The main thread drives the loop itself (Celery's prefork and solo pools handle there). Threads share a loop that runs in
a thread of its own (the threads pool, the harness). So a client that belongs to a loop, as those of HTTP libraries do,
can be made once and serve every handler; asyncio.run() would close its loop, and with it the client, after each call.

A coroutine sees the context variables of its caller. When it ends, the tasks that it started and did not await are
cancelled and awaited, as asyncio.run() does. A task outlives the coroutine only if it is given a context of its own:
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

ResultT = TypeVar("ResultT")

CLEANUP_TIMEOUT_S = 5.0
"""How long cancelled tasks may take to end."""

log = logging.getLogger(__name__)

# The tasks that the current call of run() has started; unset in tasks with a context of their own.
_started_tasks: ContextVar[WeakSet[asyncio.Task[Any]] | None] = ContextVar("petiole_started_tasks", default=None)


def run_coroutine(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to its end, from the thread that handles. Raises what the coroutine raises.

    Raises: concurrent.futures.CancelledError where the coroutine cancelled itself.
    """
    loops = _process_loops()
    if threading.current_thread() is threading.main_thread():
        return loops.run_here(_run_with_cleanup(coroutine))
    return loops.run_in_background(_run_with_cleanup(coroutine))


def close_loops() -> None:
    """Cancel what still runs, and close the loop of this process. Safe to repeat; the next run makes a new one."""
    if (loops := _processes.pop(os.getpid(), None)) is not None:
        loops.close()


class _ProcessLoops:
    """The loop that the main thread drives, and the one in the background; hardly ever both in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here: asyncio.Runner | None = None
        self._background = _new_runner()
        self._thread: threading.Thread | None = None

    def run_here(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        self._here = self._here or _new_runner()
        loop = self._here.get_loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError as error:
            # As it comes out of the other loop: an error, where asyncio's would pass for an order to stop.
            raise CancelledError from error
        finally:
            # A signal's exception may come out of the loop instead of the coroutine: a time limit, an end by SIGTERM.
            if not task.done() and not loop.run_until_complete(_cancel_and_wait({task})):
                # It refuses to end. On a closed loop it never runs again, at the price of whatever else the loop held.
                self._here = None
                loop.close()

    def run_in_background(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        with self._lock:
            loop = self._background.get_loop()
            if self._thread is None:
                # A daemon: Python joins all other threads before it calls what is registered to run at its end.
                self._thread = threading.Thread(target=loop.run_forever, name="petiole-loop", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def close(self) -> None:
        if self._here is not None:
            _close(self._here)
        if self._thread is not None:
            loop = self._background.get_loop()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            _close(self._background)


# By process: a forked child must neither use nor close its parent's, which share their file descriptors with it.
_processes: dict[int, _ProcessLoops] = {}


def _process_loops() -> _ProcessLoops:
    return _processes.get(os.getpid()) or _processes.setdefault(os.getpid(), _ProcessLoops())


def _new_runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=_new_loop)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(_track_task)
    return loop


def _close(runner: asyncio.Runner) -> None:
    loop = runner.get_loop()
    if loop.run_until_complete(_cancel_and_wait(asyncio.all_tasks(loop))):
        runner.close()
    else:
        loop.close()  # Runner.close() would wait without limit for tasks that refuse to end


def _track_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context: Context | None = options.get("context")
    started = _started_tasks.get() if context is None else context.get(_started_tasks)
    if started is not None:
        started.add(task)
    return task


async def _run_with_cleanup(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    started: WeakSet[asyncio.Task[Any]] = WeakSet()
    _started_tasks.set(started)
    try:
        return await coroutine
    finally:
        await _cancel_and_wait({task for task in started if not task.done()})


async def _cancel_and_wait(tasks: set[asyncio.Task[Any]]) -> bool:
    """Cancel tasks and wait for their end; return whether all ended within CLEANUP_TIMEOUT_S."""
    for task in tasks:
        task.cancel()
    unended = (await asyncio.wait(tasks, timeout=CLEANUP_TIMEOUT_S))[1] if tasks else ()
    if unended:
        log.warning("coroutine.cancel_timed_out", extra={"tasks": len(unended)})
    return not unended


@signals.worker_process_shutdown.connect(weak=False)
def _close_on_process_exit(**_: object) -> None:
    close_loops()


# A prefork child leaves by os._exit, which calls nothing of this kind; all other processes do.
atexit.register(close_loops)
