"""Time limits: interrupt a function that takes too long, in every pool. Celery's own limits work in prefork only.

    main thread (prefork, solo)    A signal interrupts the function while it computes or waits: time.sleep, sockets,
                                   files, locks, child processes. The signal is SIGURG, because it is ignored by
                                   default and neither Celery (USR1, TERM, QUIT) nor handlers (SIGALRM) use it.
    other threads (threads pool)   Python raises an exception before the function's next line. That ends Python code at
                                   once, and a blocking call only when it returns: give such calls their own timeouts.

No limit ends C code that does not check for signals, such as a model's inference or some database drivers' queries.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import ClassVar, Protocol, TypeVar

ResultT = TypeVar("ResultT")


class TimeLimitReached(BaseException):
    """Raised in a function that exceeds its time limit. `except Exception` does not catch it, as for CancelledError."""


_ends_at: ContextVar[float | None] = ContextVar("petiole_time_limit", default=None)


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Set the limit that `remaining_s` reports. It interrupts nothing: see `call_within`."""
    token = _ends_at.set(time.monotonic() + limit_s)
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining_s() -> float | None:
    """Return the seconds left until the running handler's time limit; None without a limit."""
    ends_at = _ends_at.get()
    return None if ends_at is None else ends_at - time.monotonic()


def call_within(limit_s: float, function: Callable[[], ResultT]) -> ResultT:
    """Call a function and interrupt it after `limit_s` seconds, with the restrictions in the module's docstring.

    Raises:
        TimeLimitReached: the function was interrupted, or returned after the limit.
        BaseException: the function's error.
    """
    ends_at = time.monotonic() + limit_s
    returned = _call_interruptibly(limit_s, function)
    if time.monotonic() > ends_at:
        raise TimeLimitReached
    return returned


def _call_interruptibly(limit_s: float, function: Callable[[], ResultT]) -> ResultT:
    interrupt = create_interrupt(TimeLimitReached)
    try:
        _process_timer().fire_at(time.monotonic() + limit_s, interrupt)
        return function()
    finally:
        # If it fires before it is disarmed, TimeLimitReached is raised here; the function was too slow anyway.
        try:
            interrupt.disarm()
        finally:
            interrupt.disarm()  # the error may have been raised in the line above, before it took effect


def create_interrupt(error: type[BaseException]) -> Interrupt:
    """Create what raises an error in the calling thread when another one fires it. `disarm` it in the same thread."""
    is_main = threading.current_thread() is threading.main_thread()
    return _SignalInterrupt(error) if is_main else _ExceptionInterrupt(error)


REPEAT_INTERRUPT_S = 2.0
"""How long an interrupted call may take to clean up before it is interrupted again."""


class Interrupt(Protocol):
    """Raises an error in a thread, unless it was disarmed before."""

    @property
    def is_armed(self) -> bool: ...

    def fire(self) -> None: ...

    def disarm(self) -> None: ...


class _TimerThread:
    """A thread that fires interrupts. One for each process, because a thread for each call costs ten times as much."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Interrupt]] = []
        self._numbers = itertools.count()
        self._wakes_at = math.inf
        threading.Thread(target=self._run, name="petiole-timer", daemon=True).start()

    def fire_at(self, moment: float, interrupt: Interrupt) -> None:
        with self._changed:
            while self._due and not self._due[0][-1].is_armed:
                heapq.heappop(self._due)
            heapq.heappush(self._due, (moment, next(self._numbers), interrupt))
            # The thread wakes only for an earlier moment. Calls that end in time leave it asleep, and save a wake-up.
            if moment < self._wakes_at:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            for interrupt in self._take_due():
                interrupt.fire()
                # Python drops exceptions in weak reference callbacks, so a call that still runs is interrupted again.
                if interrupt.is_armed:
                    self.fire_at(time.monotonic() + REPEAT_INTERRUPT_S, interrupt)

    def _take_due(self) -> list[Interrupt]:
        with self._changed:
            self._wakes_at = self._due[0][0] if self._due else math.inf
            self._changed.wait(min(max(0.0, self._wakes_at - time.monotonic()), threading.TIMEOUT_MAX))
            overdue = []
            while self._due and self._due[0][0] <= time.monotonic():
                overdue.append(heapq.heappop(self._due)[-1])
            return overdue


# By process id: a forked child has none of its parent's threads.
_timers: dict[int, _TimerThread] = {}
_timers_lock = threading.Lock()


def _process_timer() -> _TimerThread:
    with _timers_lock:
        return _timers.get(os.getpid()) or _timers.setdefault(os.getpid(), _TimerThread())


class _SignalInterrupt:
    """Interrupts the main thread."""

    _armed: ClassVar[list[_SignalInterrupt]] = []

    def __init__(self, error: type[BaseException]) -> None:
        if signal.getsignal(signal.SIGURG) is not _raise_fired:
            signal.signal(signal.SIGURG, _raise_fired)
        self.error = error
        self.is_fired = False
        self._armed.append(self)

    @property
    def is_armed(self) -> bool:
        return self in self._armed

    def fire(self) -> None:
        if self.is_armed:
            self.is_fired = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

    def disarm(self) -> None:
        if self in self._armed:
            self._armed.remove(self)


def _raise_fired(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    # Runs in the main thread between two instructions, so a signal that arrives after disarm() raises nothing.
    for interrupt in _SignalInterrupt._armed:  # noqa: SLF001 - the same file
        if interrupt.is_fired:
            interrupt.is_fired = False
            raise interrupt.error


class _ExceptionInterrupt:
    """Interrupts a thread other than the main thread."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._is_fired = False
        self.is_armed = True

    def fire(self) -> None:
        with self._lock:
            if self.is_armed:
                self._is_fired = True
                _raise_in_thread(self._thread_id, self._error)

    def disarm(self) -> None:
        with self._lock:
            self.is_armed = False
            if self._is_fired:
                # Cancels an exception that Python has not raised yet, which would interrupt the thread's next work.
                _raise_in_thread(self._thread_id, None)


def _raise_in_thread(thread_id: int, error: type[BaseException] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)
