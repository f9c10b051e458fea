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
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class Overdue(BaseException):
    """Raised within a function that has not ended in time. Like asyncio.CancelledError it passes `except Exception`."""


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
    interruption = _Signal() if threading.current_thread() is threading.main_thread() else _Exception()
    clock = threading.Timer(limit_s, interruption.strike)
    clock.daemon = True
    clock.start()
    try:
        return act()
    finally:
        # Struck between the two lines, Overdue is raised from here: the function has not ended in time either way.
        interruption.disarm()
        clock.cancel()


class _Signal:
    """Ends what the main thread runs."""

    _armed: _Signal | None = None

    def __init__(self) -> None:
        if signal.getsignal(signal.SIGURG) is not _raise_overdue:
            signal.signal(signal.SIGURG, _raise_overdue)
        _Signal._armed = self

    def strike(self) -> None:
        if _Signal._armed is self:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

    def disarm(self) -> None:
        _Signal._armed = None


def _raise_overdue(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    # Runs in the main thread, between two steps of it: once disarmed, nothing is raised, however late the signal.
    if _Signal._armed is not None:  # noqa: SLF001 - the same file
        _Signal._armed.disarm()  # noqa: SLF001
        raise Overdue


class _Exception:
    """Ends what another thread runs."""

    def __init__(self) -> None:
        self._thread_id = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self._is_armed = True

    def strike(self) -> None:
        with self._lock:
            if self._is_armed:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread_id, ctypes.py_object(Overdue))

    def disarm(self) -> None:
        with self._lock:
            self._is_armed = False
            # Takes back what was struck and has not been raised yet: it would hit whatever this thread does next.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread_id, None)
