"""Watchdog: end the child processes of a command that was killed, which cannot do so itself.

A forked process waits on a pipe whose other end only the command holds. If the pipe closes without a last word, the
command was killed: the watchdog stops the children and cleans up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.05
_DONE = "done"


class Watchdog:
    """A context in which a kill of this process ends its children, too. Enter it before threads are started."""

    def __init__(self) -> None:
        self._clean_ups: dict[str, Callable[[], object]] = {}
        self._pipe = self._pid = -1

    def offer(self, name: str, clean_up: Callable[[], object]) -> None:
        """Offer a function to run after a kill if it is named by `add`. Call it before the context is entered."""
        self._clean_ups[name] = clean_up

    def __enter__(self) -> Self:
        reader, self._pipe = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._pipe)
            _watch(reader, self._clean_ups)
        os.close(reader)
        return self

    def add(self, name: str) -> None:
        """Have a function that was offered called after a kill."""
        with suppress(BrokenPipeError):  # the watchdog itself was killed
            os.write(self._pipe, f"{name}\n".encode())

    def add_this_process(self) -> None:
        """Add the calling child process, the leader of a process group.

        The child calls it before it runs its program: a kill of its parent finds it in whatever moment.
        """
        self.add(str(os.getpid()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.add(_DONE)
        os.close(self._pipe)
        os.waitpid(self._pid, 0)


def _watch(reader: int, clean_ups: dict[str, Callable[[], object]]) -> None:
    """Wait for the command to end, in the forked process, which never returns from here."""
    try:
        # Signals to the terminal's processes are for the command, and so is its output.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123 - a file descriptor is needed
            for descriptor in range(3):
                os.dup2(nothing.fileno(), descriptor)
        with os.fdopen(reader) as lines:
            added = lines.read().split()
        if _DONE not in added:
            _stop_groups([int(each) for each in added if each.isdigit()])
            for name in added:
                clean_ups.get(name, lambda: None)()
    finally:
        os._exit(0)  # what was registered for the command's exit is not this process's to do


def _stop_groups(leaders: Sequence[int]) -> None:
    """Stop process groups: SIGTERM, then SIGKILL."""
    _signal_groups(leaders, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while _signal_groups(leaders, 0) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _signal_groups(leaders, signal.SIGKILL)


def _signal_groups(leaders: Sequence[int], number: int) -> int:
    """Send a signal to process groups, and return how many of them exist."""
    reached = 0
    for leader in leaders:
        with suppress(ProcessLookupError):
            os.killpg(leader, number)
            reached += 1
    return reached
