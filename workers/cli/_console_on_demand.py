"""The console of `petiole up`: its port is open from the start, and its process begins with the first visitor.

So it costs nothing until somebody looks. If the process ends, the next visitor starts it again; the rest goes on.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
from collections.abc import Callable

from petiole.workers.cli._options import open_loopback_listener
from petiole.workers.console import CONSOLE_PORT
from petiole.workers.process.child_processes import ChildProcess, forward_output, start_console
from petiole.workers.process.watchdog import Watchdog

_RESTART_AFTER_S = 2.0


class ConsoleOnDemand:
    """A port of loopback, and the console's process behind it.

    Args:
        watchdog: ends the process if this one is killed.
        show: is called with each line that the process writes.
    """

    def __init__(self, watchdog: Watchdog, show: Callable[[str], object]) -> None:
        self._watchdog = watchdog
        self._show = show
        self._listener = open_loopback_listener(CONSOLE_PORT)
        self._reader, self._writer = os.pipe()
        self._stopping = threading.Event()
        self._child: ChildProcess | None = None
        self._thread = threading.Thread(target=self._serve, name="console-on-demand", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def stop(self) -> None:
        """Stop the process, if there is one, and close the port."""
        self._stopping.set()
        os.write(self._writer, b".")
        if self._child is not None:
            self._child.stop()
        self._thread.join()
        self._listener.close()
        os.close(self._reader)
        os.close(self._writer)

    def _serve(self) -> None:
        while self._waits_for_visitor():
            child = start_console(self._listener, output=subprocess.PIPE, watchdog=self._watchdog)
            self._child = child
            if self._stopping.is_set():  # between the visitor and the start
                child.stop()
            forward_output(child, self._show).join()
            child.process.wait()
            self._stopping.wait(_RESTART_AFTER_S)

    def _waits_for_visitor(self) -> bool:
        """Wait for a connection; return False if it is time to stop."""
        ready, _, _ = select.select([self._listener.fileno(), self._reader], [], [])
        return self._reader not in ready
