"""Stop the embedded broker and its workers."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console
from petiole.workers.cli._options import format_command
from petiole.workers.cli.up import LOCK_FILE
from petiole.workers.process import embedded_broker

_INSPECT_TIMEOUT_S = 1.0
_STOP_TIMEOUT_S = 30.0
_POLL_INTERVAL_S = 0.05


@click.command
def command() -> None:
    """Stop what runs here: `petiole up`, the workers of the embedded broker, and the broker; its data are kept.

    Running handlers finish. A broker of your own (PETIOLE_BROKER_URL) and its workers continue to run.
    """
    home = embedded_broker.default_home()
    console = open_console()
    running = embedded_broker.broker_url(home)
    stopped: list[str] = []
    if running and default_bus.broker_url == running:
        stopped = _stop_workers(default_bus)
        for node in stopped:
            console.print(f"stopped the worker {node}")
    # A running `up` ends by itself when its workers have ended; it stops beat, and the broker if it started it.
    _stop_up(home / LOCK_FILE, is_ending=bool(stopped))
    if embedded_broker.stop_broker(home) or running:
        console.print("stopped the embedded broker; its data are kept")
    else:
        console.print("no embedded broker runs here")


def _stop_workers(bus: BusRuntime) -> list[str]:
    """Stop the workers and wait until they have ended. Raises ClickException if one does not end."""
    # The workers run on this machine: the embedded broker listens on loopback only.
    processes = {
        node: int(stats["pid"])
        for node, stats in (bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).stats() or {}).items()
    }
    if processes:
        bus.app.control.shutdown(destination=list(processes))
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while remaining := [node for node, pid in processes.items() if _is_running(pid)]:
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{', '.join(remaining)} did not end within {_STOP_TIMEOUT_S:.0f} s; the broker still runs"
            )
        time.sleep(_POLL_INTERVAL_S)
    return sorted(processes)


def _stop_up(lock_file: Path, *, is_ending: bool) -> None:
    """Wait until the `up` of this home has ended; one that does not end by itself is told to."""
    if not lock_file.is_file():
        return
    with lock_file.open("r") as lock:
        if is_ending and _wait_for_lock(lock, _STOP_TIMEOUT_S):
            return
        if _wait_for_lock(lock, 0):
            return
        with suppress(ProcessLookupError):
            os.kill(int(lock.read()), signal.SIGTERM)
        if not _wait_for_lock(lock, _STOP_TIMEOUT_S):
            raise click.ClickException(f"'{format_command('up')}' did not end within {_STOP_TIMEOUT_S:.0f} s")


def _wait_for_lock(lock: IO[str], timeout_s: float) -> bool:
    """Wait until no other process holds a lock; return False after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL_S)
        else:
            return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
