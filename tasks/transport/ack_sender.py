"""Ack sender: send acknowledgements within 5 ms while a handler blocks the event loop, in all pools but prefork."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

MAX_ACK_DELAY_S = 0.005

logger = logging.getLogger(__name__)


class AckSender:
    """A thread that sends a channel's pending acks unless its event loop has done so meanwhile."""

    def __init__(self, send_acks: Callable[[], None], connection_errors: tuple[type[Exception], ...]) -> None:
        self._send_acks = send_acks
        self._connection_errors = connection_errors
        self._is_pending, self._is_closed = Event(), Event()
        self._thread = Thread(target=self._run, name="petiole-acks", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Have pending acks sent."""
        self._is_pending.set()

    def close(self) -> None:
        """Stop the thread."""
        self._is_closed.set()
        self._is_pending.set()

    def _run(self) -> None:
        while True:
            self._is_pending.wait()
            if self._is_closed.wait(MAX_ACK_DELAY_S):
                return
            self._is_pending.clear()
            try:
                self._send_acks()
            except self._connection_errors as error:
                # The acks stay pending. The event loop notices the lost connection, too; the next channel sends them.
                logger.debug("acks.send_failed", extra={"error": str(error)})
