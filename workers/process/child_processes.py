"""Run Celery's workers, beat and the console as child processes of a command: start them, wait for them, stop them.

Each child leads its own session, so Ctrl-C in the terminal reaches the command only. The command then stops its
children in order, and a worker finishes its running handlers. All children use the home of the embedded broker.
"""

from __future__ import annotations

import logging
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
from petiole.workers.process.watchdog import Watchdog

log = logging.getLogger(__name__)

WORKER_START_TIMEOUT_S = 60.0
SLOTS = 64
"""How many deliveries a worker handles at once by default."""

_PING_TIMEOUT_S = 0.5
_POLL_S = 0.1

# A warm shutdown, then a cold one, in which a worker returns its messages to the broker; each with its timeout in
# seconds. SIGKILL follows.
_STOP_SIGNALS = ((signal.SIGTERM, 20.0), (signal.SIGQUIT, 5.0))

# The `celery` command reads options from these variables. The command that starts the children does not read them, so
# its children would use another broker.
_CELERY_OPTION_VARIABLES = {"BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE"}


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running process, the leader of its own session."""

    name: str
    process: subprocess.Popen[str]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_for_exit(self, seconds: float) -> bool:
        """Wait for the process to end, and return whether it ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Stop the process and its children: warm shutdown, cold shutdown, SIGKILL; Ctrl-C kills at once. Idempotent"""
        try:
            for number, timeout_s in _STOP_SIGNALS:
                self.process.send_signal(number)
                if self.wait_for_exit(timeout_s):
                    break
        except KeyboardInterrupt:
            pass
        self.kill()

    def kill(self) -> None:
        """Kill the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_worker(
    name: str,
    *,
    output: IO[str] | int,
    watchdog: Watchdog,
    concurrency: int = SLOTS,
    label: str = "worker",
    options: Sequence[str] = (),
) -> ChildProcess:
    """Start a worker named `name@host`. It runs all agents unless Celery's `options` select some.

    Its slots are threads, which cost no memory while they are idle, so it has many: slow handlers of one agent leave
    slots to the others. It fetches no more than it can run at once, or deliveries would wait behind slow ones.
    """
    options = [*options, "--hostname", node_name(name), "--loglevel", "INFO"]
    options += ["--pool", "threads", "--concurrency", str(concurrency), "--prefetch-multiplier", "1"]
    # Mingle and gossip look for other workers, which takes a second; this worker does not need them.
    return _start_celery(label, ["worker", *options, "--without-mingle", "--without-gossip"], output, watchdog)


def start_beat(*, output: IO[str] | int, watchdog: Watchdog) -> ChildProcess:
    """Start beat, which schedules the periodic tasks."""
    # No pid file: it would be in the current directory, and would remain after beat is killed.
    return _start_celery("beat", ["beat", "--pidfile=", "--loglevel", "INFO"], output, watchdog)


def start_console(listener: socket.socket, *, output: IO[str] | int, watchdog: Watchdog) -> ChildProcess:
    """Start the console on a socket that listens on loopback."""
    arguments = ["petiole.workers.cli", "console", "--listener", str(listener.fileno())]
    return _start_module("console", arguments, output, watchdog, descriptors=(listener.fileno(),))


def node_name(name: str) -> str:
    """Return a worker's node name, `name@host`."""
    return f"{name}@{socket.gethostname()}"


def list_responding_workers(bus: BusRuntime, *, timeout_s: float = 1.0) -> list[str]:
    """List the workers that reply within the timeout. Takes the whole timeout if none replies."""
    return sorted(node for reply in bus.app.control.ping(timeout=timeout_s) or [] for node in reply)


def wait_for_worker(bus: BusRuntime, child: ChildProcess, node: str, *, log: Path | None = None) -> None:
    """Wait until a worker replies; its agents are then registered. Raises Retryable (worker_not_started)."""
    deadline = time.monotonic() + WORKER_START_TIMEOUT_S
    while not bus.app.control.ping(destination=[node], timeout=_PING_TIMEOUT_S):
        if not child.is_alive:
            reason = f"exited with code {child.process.returncode}"
            raise worker_not_started(node, reason, read_last_lines(log))
        if time.monotonic() > deadline:
            raise worker_not_started(node, f"did not reply within {WORKER_START_TIMEOUT_S:.0f} s", read_last_lines(log))


def wait_for_first_exit(children: Sequence[ChildProcess]) -> ChildProcess:
    """Wait until one child ends, and return it."""
    while True:
        for child in children:
            if child.wait_for_exit(_POLL_S):
                return child


def forward_output(child: ChildProcess, show: Callable[[str], object]) -> threading.Thread:
    """Call `show` with each line that a child writes, in a thread that ends with the child."""
    thread = threading.Thread(target=_forward_lines, args=(child, show), name=f"output-{child.name}", daemon=True)
    thread.start()
    return thread


def read_last_lines(path: Path | None, count: int = 12) -> str:
    """Read the last lines of a log; return an empty text if the file does not exist."""
    if path is None or not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too, so that a command stops its children on these signals."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_celery(name: str, arguments: Sequence[str], output: IO[str] | int, watchdog: Watchdog) -> ChildProcess:
    celery = ["celery", "--quiet", "-A", "petiole.workers.celery"]
    return _start_module(name, [*celery, *arguments], output, watchdog)


def _start_module(
    name: str, arguments: Sequence[str], output: IO[str] | int, watchdog: Watchdog, descriptors: Sequence[int] = ()
) -> ChildProcess:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=watchdog.add_this_process,  # noqa: PLW1509 - it takes no lock: it only writes to a pipe
        env=_child_environment(),
        pass_fds=descriptors,
    )
    return ChildProcess(name, process)


def _child_environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _CELERY_OPTION_VARIABLES}
    own = {"PETIOLE_HOME": str(embedded_broker.default_home()), "PYTHONUNBUFFERED": "1"}
    # The console and `petiole top` show rates and errors, which need counted events.
    return {"PETIOLE_METRICS": "true"} | inherited | own


def _forward_lines(child: ChildProcess, show: Callable[[str], object]) -> None:
    is_shown = True
    for line in child.process.stdout or ():
        try:
            if is_shown:
                show(line.rstrip("\n"))
        except OSError as error:
            # Read on: a child whose output nobody reads stops at a full pipe.
            is_shown = False
            log.warning("output.write_failed", extra={"child": child.name, "error": str(error)})


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    raise KeyboardInterrupt
