"""Loop waker: wake the worker's event loop from another thread, such as one that has ended a delivery."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any


class LoopWaker:
    """A pipe that the event loop reads."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._is_waking = False
        self._writing = Lock()
        loop.add_reader(self._reader, self._on_woken)

    def wake(self) -> None:
        """Have the event loop begin its next iteration. Any thread may call it."""
        with self._writing:
            if not self._is_waking:
                self._is_waking = True
                os.write(self._writer, b"\0")

    def close(self) -> None:
        """Close the pipe; `wake` does nothing from now on."""
        self._loop.remove_reader(self._reader)
        with self._writing:  # a number of a closed file may be another file's soon
            self._is_waking = True
            os.close(self._reader)
            os.close(self._writer)

    def _on_woken(self) -> None:
        with self._writing:  # a byte that is read must not be that of a later wake, or none would be written again
            os.read(self._reader, 64)
            self._is_waking = False
