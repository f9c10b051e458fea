"""Celery's cold shutdown (SIGQUIT, or Ctrl-C twice) in a pool of threads or greenlets.

Celery waits for the pool in its signal handler, and Python runs that on the main thread, wherever it is. If that holds
the executor's lock, the executor cannot end; if it is in a greenlet of the pool, that waits for itself. In a thread or
greenlet of its own, Celery's handler waits for the others only.
"""

from __future__ import annotations

import signal
from _thread import start_new_thread  # waits for nothing, as a signal handler must; gevent starts a greenlet for it
from types import FrameType
from typing import Any

from celery.apps.worker import (  # type: ignore[attr-defined]  # the stubs leave it out
    during_soft_shutdown,
    install_worker_term_hard_handler,
)


def run_cold_shutdown_in_a_thread(worker: Any) -> None:
    """Let Celery's cold shutdown of a worker run beside what its signal interrupts. Call it on the main thread."""
    interrupt = signal.getsignal(signal.SIGINT)

    def interrupt_first(number: int, frame: FrameType | None) -> None:
        if callable(interrupt):
            interrupt(number, frame)
        _run_in_a_thread(signal.SIGINT, worker)

    _run_in_a_thread(signal.SIGQUIT, worker)
    signal.signal(signal.SIGINT, interrupt_first)


def _run_in_a_thread(number: signal.Signals, worker: Any) -> None:
    shut_down = signal.getsignal(number)
    if not callable(shut_down):
        return

    def handle(received: int, _: FrameType | None) -> None:
        # Only the main thread can set what the next signal does.
        for following in ("SIGINT", "SIGQUIT"):
            install_worker_term_hard_handler(worker, sig=following, callback=during_soft_shutdown)
        start_new_thread(shut_down, (received, None))

    signal.signal(number, handle)
