"""Cancellation: interrupt the handlers of a flow that is cancelled while they run.

    def, generator              HandlerCancelled is raised in its thread, with the restrictions of a time limit
    async def, async generator  its task is cancelled
    a response stream           `ResponseStream.run` ends it, and the handler goes on with what was written

A handler that is interrupted has no outcome of its own: its delivery ends as `aborted`, without a retry. If it returns
nevertheless, its events are published. One thread of a process looks for cancelled flows, and only for handlers that
run longer than POLL_S, so short handlers cost nothing.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from petiole.tasks.handling.time_limits import REPEAT_INTERRUPT_S, Interrupt, create_interrupt
from petiole.tasks.instrumentation import OperationFailed

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

POLL_S = 0.1
"""How often a process looks whether the flows of its running handlers are cancelled."""


GRACE_S = 10.0
"""How long a handler that ends itself may go on afterwards, at least."""

IDLE_S = 0.5
"""After how long without a handler the thread ends; the next handler starts another."""


class HandlerCancelled(BaseException):
    """Raised in a handler whose flow was cancelled. `except Exception` does not catch it, as for CancelledError."""

    def __str__(self) -> str:
        return "its flow was cancelled"


@dataclass(slots=True, eq=False)
class RunningHandler:
    """A handler that runs. `ends_itself` while it looks at `is_cancelled` and need not be interrupted."""

    correlation_id: str
    interrupt: Interrupt
    started_at: float = field(default_factory=time.monotonic)
    is_cancelled: bool = False
    ends_itself: bool = False
    task: asyncio.Task[object] | None = None
    _interrupted_at: float = float("-inf")

    def cancel(self) -> None:
        """Interrupt the handler, again if it goes on for long."""
        self.is_cancelled = True
        if self.ends_itself:
            # Afterwards it may take its time to return what was written.
            self._interrupted_at = time.monotonic() + GRACE_S
        if time.monotonic() - self._interrupted_at < REPEAT_INTERRUPT_S:
            return
        self._interrupted_at = time.monotonic()
        if self.task is None:
            self.interrupt.fire()
        else:
            with suppress(RuntimeError):  # its loop is closed
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)


_running: ContextVar[RunningHandler | None] = ContextVar("petiole_running_handler", default=None)


def running_handler() -> RunningHandler | None:
    """Return the handler that runs in this thread or task; None outside, and for one that cannot be cancelled."""
    return _running.get()


@contextmanager
def cancellable(bus: BusRuntime, correlation_id: str) -> Iterator[RunningHandler]:
    """Let the handler that runs in this block be interrupted if its flow is cancelled."""
    running = RunningHandler(correlation_id, create_interrupt(HandlerCancelled))
    watch = bus.resource(_Watches).of_process()
    token = _running.set(running)
    watch.add(running)
    try:
        yield running
    finally:
        try:
            watch.remove(running)
            running.interrupt.disarm()
        finally:
            # HandlerCancelled may have been raised in the lines above, before they took effect.
            watch.remove(running)
            running.interrupt.disarm()
            _running.reset(token)


@contextmanager
def ending_itself() -> Iterator[RunningHandler | None]:
    """Do not interrupt the handler in this block, which has to look at `is_cancelled`."""
    running = _running.get()
    if running is None:
        yield None
        return
    running.ends_itself = True
    try:
        yield running
    finally:
        running.ends_itself = False


class _Watches:
    """The watch of each process, because a forked child has none of its parent's threads."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._by_process: dict[int, _Watch] = {}

    def of_process(self) -> _Watch:
        process = os.getpid()
        watch = self._by_process.get(process)
        if watch is None:
            with self._lock:
                watch = self._by_process.setdefault(process, _Watch(self._bus))
        return watch


class _Watch:
    """A thread that looks for cancelled flows while handlers run."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._running: dict[int, RunningHandler] = {}
        self._is_needed = threading.Event()
        self._has_failed = False
        self._starting = threading.Lock()
        self._is_started = False

    def add(self, running: RunningHandler) -> None:
        self._running[id(running)] = running
        if not self._is_needed.is_set():
            self._start()

    def remove(self, running: RunningHandler) -> None:
        self._running.pop(id(running), None)

    def _start(self) -> None:
        with self._starting:
            self._is_needed.set()
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="petiole-cancellation", daemon=True).start()

    def _has_nothing_to_do(self) -> bool:
        """Wait for a handler; returns whether there was none for so long that the thread ends."""
        if self._is_needed.wait(IDLE_S):
            return False
        with self._starting:
            self._is_started = self._is_needed.is_set()
            return not self._is_started

    def _run(self) -> None:
        while not self._has_nothing_to_do():
            time.sleep(POLL_S)
            latest_start = time.monotonic() - POLL_S
            long_running = [running for running in list(self._running.values()) if running.started_at <= latest_start]
            if long_running:
                self._cancel(long_running)
            elif not self._running:
                self._is_needed.clear()
                if self._running:  # added between the two lines above
                    self._is_needed.set()

    def _cancel(self, running: list[RunningHandler]) -> None:
        flows = sorted({each.correlation_id for each in running})
        try:
            cancelled = self._bus.stores.cluster_membership.find_cancelled(flows)
        except RedisError as error:
            if not self._has_failed:
                self._bus.instrumentation.emit(OperationFailed(operation="cancellation.check_failed", exception=error))
            self._has_failed = True
            return
        self._has_failed = False
        for each in running:
            if each.correlation_id in cancelled:
                each.cancel()
