"""The event loop of a process, in which `run_coroutine` runs all async handlers.

asyncio.run() would close its loop after each call, and with it clients that belong to the loop, such as those of HTTP
libraries. With one loop for each process a client is made once and serves every handler. The first coroutine creates
the loop; it is closed when the process ends.

The main thread runs the loop itself (Celery's prefork and solo pools). Other threads share a loop in a background
thread (the threads pool, the in-memory bus).

A coroutine sees its caller's context variables. When it ends, the tasks that it started and did not await are cancelled
and awaited, as by asyncio.run(). A task outlives the coroutine only with a context of its own:
`asyncio.create_task(..., context=contextvars.Context())`.
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

from petiole.tasks.handling.cancellation import running_handler

ResultT = TypeVar("ResultT")

CLEANUP_TIMEOUT_S = 5.0
"""How long cancelled tasks may take to end, in seconds."""

log = logging.getLogger(__name__)

# The tasks that the current call of run_coroutine() has started; unset in tasks with a context of their own.
_started_tasks: ContextVar[WeakSet[asyncio.Task[Any]] | None] = ContextVar("petiole_started_tasks", default=None)


def run_coroutine(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to its end in the loop of this process.

    Raises:
        concurrent.futures.CancelledError: the coroutine cancelled itself.
        BaseException: the coroutine's error.
    """
    loops = _process_loops()
    if threading.current_thread() is threading.main_thread():
        return loops.run_here(_run_with_cleanup(coroutine))
    return loops.run_in_background(_run_with_cleanup(coroutine))


def close_loops() -> None:
    """Cancel all tasks and close the loops of this process. Safe to repeat; the next coroutine creates a new loop."""
    if (loops := _processes.pop(os.getpid(), None)) is not None:
        loops.close()


class _ProcessLoops:
    """The main thread's loop and the background loop of one process; most processes use only one of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here: asyncio.Runner | None = None
        self._background = _new_runner()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run_here(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        self._here = self._here or _new_runner()
        loop = self._here.get_loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError as error:
            # The background loop raises this class too. Callers could take asyncio's for their own cancellation.
            raise CancelledError from error
        finally:
            # An exception of a signal handler (time limit, SIGTERM) can leave the loop before the coroutine ends.
            if not task.done() and not loop.run_until_complete(_cancel_and_wait({task})):
                # The task ignores its cancellation. Closing the loop stops it, and loses the loop's other tasks.
                self._here = None
                loop.close()

    def run_in_background(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        with self._lock:
            loop = self._background.get_loop()
            if self._thread is None:
                # A daemon, because Python joins all other threads before it calls atexit functions.
                self._thread = threading.Thread(target=self._run, args=(loop,), name="petiole-loop", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._is_closed:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets them end the loop; here they end the coroutine that raised them, and the others go on.
                log.warning("coroutine.exited", exc_info=True)

    def close(self) -> None:
        self._is_closed = True
        if self._here is not None:
            _close(self._here)
        if self._thread is not None:
            loop = self._background.get_loop()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            _close(self._background)


# By process id: a forked child shares the file descriptors of its parent's loops, and must not use or close them.
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
        loop.close()  # Runner.close() would wait forever for tasks that ignore their cancellation


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
    if (running := running_handler()) is not None:
        running.task = asyncio.current_task()
    try:
        return await coroutine
    finally:
        await _cancel_and_wait({task for task in started if not task.done()})


async def _cancel_and_wait(tasks: set[asyncio.Task[Any]]) -> bool:
    """Cancel tasks and wait for their end; return whether all ended within CLEANUP_TIMEOUT_S."""
    for task in tasks:
        task.cancel()
    pending = (await asyncio.wait(tasks, timeout=CLEANUP_TIMEOUT_S))[1] if tasks else ()
    if pending:
        log.warning("coroutine.cancel_timed_out", extra={"tasks": len(pending)})
    return not pending


@signals.worker_process_shutdown.connect(weak=False)
def _close_on_process_exit(**_: object) -> None:
    close_loops()


# A prefork child exits by os._exit, which skips atexit functions; the signal above covers it.
atexit.register(close_loops)
