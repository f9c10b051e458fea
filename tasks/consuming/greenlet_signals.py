"""Shutdown signals in a pool of greenlets.

Python runs a signal's handler in the greenlet that runs at the moment. Celery's cold shutdown waits in it for all
greenlets of the pool: also for that one, if it is one of them. In a greenlet of its own it can wait for all.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


def handle_cold_shutdown_in_a_greenlet() -> None:
    """Let Celery's handlers for SIGQUIT, and for Ctrl-C up to the second, run in a greenlet of their own.

    What Celery installs after these ends the worker by force, for which it has to interrupt what runs.
    """
    _wrap(signal.SIGQUIT, times=1)
    _wrap(signal.SIGINT, times=2)


def _wrap(number: signal.Signals, times: int) -> None:
    from gevent import spawn  # type: ignore[import-untyped]  # noqa: PLC0415 - only workers of this pool have it

    handler = signal.getsignal(number)
    if not callable(handler):
        return

    def handle(received: int, frame: FrameType | None) -> None:
        handler(received, frame)
        if times > 1:
            _wrap(number, times - 1)

    signal.signal(number, lambda received, frame: spawn(handle, received, frame))
