"""Stop the embedded broker, and the workers that live on it."""

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
    """Stop the embedded broker, and the workers that live on it; its data stay.

    Workers finish what they have in hand. A broker of your own (PETIOLE_BROKER_URL) and its workers are left alone.
    """
    home = embedded_broker.default_home()
    console = open_console()
    running = embedded_broker.broker_url(home)
    if running and default_bus.broker_url == running:
        for node in _stop_workers(default_bus):
            console.print(f"stopped the worker {node}")
    if embedded_broker.stop_broker(home):
        console.print("stopped the embedded broker; its data stay")
    else:
        console.print("no embedded broker runs here")


def _stop_workers(bus: BusRuntime) -> list[str]:
    """Ask the workers to finish and end, and wait until they have. Raises ClickException where one stays."""
    # They are processes of this machine: nobody else reaches the embedded broker.
    processes = {
        node: int(each["pid"])
        for node, each in (bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).stats() or {}).items()
    }
    if processes:
        bus.app.control.shutdown()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while remaining := [node for node, pid in processes.items() if _is_running(pid)]:
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{', '.join(remaining)} did not end in {_STOP_TIMEOUT_S:.0f} s; the broker still runs"
            )
        time.sleep(_POLL_INTERVAL_S)
    return sorted(processes)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
