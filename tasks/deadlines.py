"""Deadlines: how a function that does not end in time is ended, in every pool; Celery's limits work in prefork only.

On the main thread (prefork, solo) a signal interrupts it, whether it computes or waits: time.sleep, sockets, files,
locks, child processes. The signal is SIGURG: nobody else uses it, it does no harm where it comes too late, and
neither Celery's (USR1, TERM, QUIT) nor a handler's own SIGALRM is in its way.
On any other thread (threads) Python itself raises in it, before its next line: what computes in Python is ended, what
waits inside one call is ended when that call returns. Give such calls limits of their own.
Nowhere can code be ended that stays in C without looking at signals, such as a model's inference or a long query of
some database drivers.
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
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Overdue(BaseException):
    """Raised within a function that has not ended in time. Like asyncio.CancelledError it passes `except Exception`."""


_ends_at: ContextVar[float | None] = ContextVar("petiole_ends_at", default=None)


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Let what is called meanwhile know how long it may take. It ends nothing: see call_within."""
    token = _ends_at.set(time.monotonic() + limit_s)
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining_s() -> float | None:
    """Tell how much is left of the time limit of the handler that runs; None where it has none."""
    ends_at = _ends_at.get()
    return None if ends_at is None else ends_at - time.monotonic()


def call_within(limit_s: float, act: Callable[[], Result]) -> Result:
    """Call a function and end it after `limit_s` seconds as far as that is possible: see the module.

    Raises: Overdue, also when the function ended too late by itself; what the function raises.
    """
    ends_at = time.monotonic() + limit_s
    returned = _interrupted(limit_s, act)
    if time.monotonic() > ends_at:
        raise Overdue
    return returned


def _interrupted(limit_s: float, act: Callable[[], Result]) -> Result:
    blow: _Blow = _Signal() if threading.current_thread() is threading.main_thread() else _Exception()
    try:
        _clock_of_this_process().strike_at(time.monotonic() + limit_s, blow)
        return act()
    finally:
        # Struck before it is disarmed, Overdue is raised from here: the function has not ended in time either way.
        blow.disarm()


AGAIN_S = 2.0
"""How long a call that was struck may take to clean up, before it is struck again."""


class _Blow(Protocol):
    """What ends a call that is overdue, unless it was disarmed before."""

    @property
    def is_armed(self) -> bool: ...

    def strike(self) -> None: ...

    def disarm(self) -> None: ...


class _Clock:
    """A thread that strikes what is due. One for each process: a thread for each call costs ten times as much."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Blow]] = []
        self._numbers = itertools.count()
        self._wakes_at = math.inf
        threading.Thread(target=self._watch, name="petiole-clock", daemon=True).start()

    def strike_at(self, moment: float, blow: _Blow) -> None:
        with self._changed:
            while self._due and not self._due[0][-1].is_armed:
                heapq.heappop(self._due)
            heapq.heappush(self._due, (moment, next(self._numbers), blow))
            # Calls that end in time leave it asleep: it wakes for the first of them, and finds it disarmed.
            if moment < self._wakes_at:
                self._changed.notify()

    def _watch(self) -> None:
        while True:
            for blow in self._next():
                blow.strike()
                # Python drops what is raised inside a weak reference's callback: who still runs is struck again.
                if blow.is_armed:
                    self.strike_at(time.monotonic() + AGAIN_S, blow)

    def _next(self) -> list[_Blow]:
        with self._changed:
            self._wakes_at = self._due[0][0] if self._due else math.inf
            self._changed.wait(min(max(0.0, self._wakes_at - time.monotonic()), threading.TIMEOUT_MAX))
            struck = []
            while self._due and self._due[0][0] <= time.monotonic():
                struck.append(heapq.heappop(self._due)[-1])
            return struck


# By process: threads do not follow into a forked child.
_clocks: dict[int, _Clock] = {}
_clocks_lock = threading.Lock()


def _clock_of_this_process() -> _Clock:
    with _clocks_lock:
        return _clocks.get(os.getpid()) or _clocks.setdefault(os.getpid(), _Clock())


class _Signal:
    """Ends what the main thread runs."""

    _armed: _Signal | None = None

    def __init__(self) -> None:
        if signal.getsignal(signal.SIGURG) is not _raise_overdue:
            signal.signal(signal.SIGURG, _raise_overdue)
        _Signal._armed = self

    @property
    def is_armed(self) -> bool:
        return _Signal._armed is self

    def strike(self) -> None:
        if self.is_armed:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

    def disarm(self) -> None:
        _Signal._armed = None


def _raise_overdue(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    # Runs in the main thread, between two steps of it: once disarmed, nothing is raised, however late the signal.
    if _Signal._armed is not None:  # noqa: SLF001 - the same file
        raise Overdue


class _Exception:
    """Ends what another thread runs."""

    def __init__(self) -> None:
        self._thread_id = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self.is_armed = True

    def strike(self) -> None:
        with self._lock:
            if self.is_armed:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread_id, ctypes.py_object(Overdue))

    def disarm(self) -> None:
        with self._lock:
            self.is_armed = False
            # Takes back what was struck and has not been raised yet: it would hit whatever this thread does next.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread_id, None)
