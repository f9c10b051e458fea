"""Processes: Celery's workers and beat as children of a command: started, awaited, stopped to the last one.

Each child leads a session of its own: Ctrl-C in the terminal reaches the command alone, which ends its children in
order, a worker with what it has in hand. All share the directory of the embedded broker.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from petiole.events.errors import worker_not_started
from petiole.tasks.runtime import BusRuntime
from petiole.workers.process import embedded_broker

WORKER_START_TIMEOUT_S = 60.0
_PING_TIMEOUT_S = 0.5
_POLL_S = 0.1

# Warm, then cold (a worker gives back what it holds), each with its patience in seconds; then without asking.
_STOP_SIGNALS = ((signal.SIGTERM, 20.0), (signal.SIGQUIT, 5.0))


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running process, the leader of its own session."""

    name: str
    process: subprocess.Popen[str]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_for_exit(self, seconds: float) -> bool:
        """Wait for the process to end; returns whether it did."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End the process and all it started: warm, then cold, then killed; Ctrl-C meanwhile kills. Safe to repeat."""
        try:
            for number, patience_s in _STOP_SIGNALS:
                self.process.send_signal(number)
                if self.wait_for_exit(patience_s):
                    break
        except KeyboardInterrupt:
            pass
        self.kill()

    def kill(self) -> None:
        """End whatever still runs of the process and its children, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_worker(
    name: str, *, concurrency: int, output: IO[str] | int, label: str = "worker", options: Sequence[str] = ()
) -> ChildProcess:
    """Start a worker with all agents, or as Celery's `options` limit it, named `name` at this host."""
    options = [*options, "--hostname", node_name(name), "--concurrency", str(concurrency), "--loglevel", "INFO"]
    # It looks for no neighbours, which takes a second: it is the only one, or needs none.
    return _start_celery(label, ["worker", *options, "--without-mingle", "--without-gossip"], output)


def start_beat(*, output: IO[str] | int) -> ChildProcess:
    """Start the scheduler of what is periodic."""
    # Without a pid file: it would lie in the current directory, and outlive a beat that was killed.
    return _start_celery("beat", ["beat", "--pidfile=", "--loglevel", "INFO"], output)


def node_name(name: str) -> str:
    """Tell a worker's full name among workers."""
    return f"{name}@{socket.gethostname()}"


def list_responding_workers(bus: BusRuntime, *, timeout_s: float = 1.0) -> list[str]:
    """List the workers that answer in time; where none does, that takes all of it."""
    return sorted(node for reply in bus.app.control.ping(timeout=timeout_s) or [] for node in reply)


def wait_for_worker(bus: BusRuntime, child: ChildProcess, node: str, *, log: Path | None = None) -> None:
    """Wait until a worker consumes: by then it has announced its agents. Raises Retryable (worker_not_started)."""
    deadline = time.monotonic() + WORKER_START_TIMEOUT_S
    while not bus.app.control.ping(destination=[node], timeout=_PING_TIMEOUT_S):
        if not child.is_alive:
            reason = f"ended at once, with exit code {child.process.returncode}"
            raise worker_not_started(node, reason, read_last_lines(log))
        if time.monotonic() > deadline:
            raise worker_not_started(
                node, f"did not answer within {WORKER_START_TIMEOUT_S:.0f} s", read_last_lines(log)
            )


def wait_for_first_exit(children: Sequence[ChildProcess]) -> ChildProcess:
    """Wait until one of them ends, and return it."""
    while True:
        for child in children:
            if child.wait_for_exit(_POLL_S):
                return child


def forward_output(child: ChildProcess, show: Callable[[str], object]) -> threading.Thread:
    """Hand each line that a child writes into its pipe to `show`, in a thread that ends with the child."""
    thread = threading.Thread(target=_forward_lines, args=(child, show), name=f"output-{child.name}", daemon=True)
    thread.start()
    return thread


def read_last_lines(path: Path | None, count: int = 12) -> str:
    """Read the end of a log; empty where there is none."""
    if path is None or not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too, so that what was started is stopped on every way out."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_celery(name: str, arguments: Sequence[str], output: IO[str] | int) -> ChildProcess:
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "--quiet", "-A", "petiole.workers", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=os.environ | {"PETIOLE_HOME": str(embedded_broker.default_home()), "PYTHONUNBUFFERED": "1"},
    )
    return ChildProcess(name, process)


def _forward_lines(child: ChildProcess, show: Callable[[str], object]) -> None:
    for line in child.process.stdout or ():
        show(line.rstrip("\n"))


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    raise KeyboardInterrupt
