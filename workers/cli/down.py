"""Stop the embedded broker and its workers."""

from __future__ import annotations

import os
import time

import click

from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console
from petiole.workers.process import embedded_broker

_INSPECT_TIMEOUT_S = 1.0
_STOP_TIMEOUT_S = 30.0
_POLL_INTERVAL_S = 0.05


@click.command
def command() -> None:
    """Stop the embedded broker and its workers; its data are kept.

    Running handlers finish. A broker of your own (PETIOLE_BROKER_URL) and its workers continue to run.
    """
    home = embedded_broker.default_home()
    console = open_console()
    running = embedded_broker.broker_url(home)
    if running and default_bus.broker_url == running:
        for node in _stop_workers(default_bus):
            console.print(f"stopped the worker {node}")
    if embedded_broker.stop_broker(home):
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
        bus.app.control.shutdown()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while remaining := [node for node, pid in processes.items() if _is_running(pid)]:
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{', '.join(remaining)} did not end within {_STOP_TIMEOUT_S:.0f} s; the broker still runs"
            )
        time.sleep(_POLL_INTERVAL_S)
    return sorted(processes)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
