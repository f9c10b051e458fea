"""Processes of one system, and what is done to them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tests.support.forks import Fork, loads_the_same
from tests.support.polling import wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Node:
    """Processes of one system: they share a broker, an environment and a folder of modules."""

    environment: dict[str, str]
    home: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, *command: str, forked: bool = True) -> subprocess.Popen[bytes]:
        """Start `python -m …`; it is ended with the test. A new process, and no fork, has loaded nothing before."""
        with (self.home / f"{len(self.processes)}.log").open("wb") as log:
            process = self._python("-m", *command, outputs=(log, log), forked=forked)
        self.processes.append(process)
        return process

    def worker(self, name: str, *options: str, forked: bool = True) -> subprocess.Popen[bytes]:
        """Start a worker, as `start` does, and wait until it consumes."""
        # Mingling is a second in which it listens for others, before it is ready.
        alone = ("--pool", "solo", "-l", "INFO", "--without-mingle")
        process = self.start("celery", "-A", "workers", "worker", "-n", f"{name}@%h", *alone, *options, forked=forked)
        log = self.home / f"{len(self.processes) - 1}.log"
        wait_until(lambda: "ready." in log.read_text(), 30, lambda: log.read_text()[-3000:])
        return process

    def run(self, code: str) -> str:
        """Run Python code in a process of its own; returns what it printed."""
        return self._output_of("-c", code)

    def command(self, *arguments: str) -> str:
        """Type `petiole …` in a process of its own; returns what it printed."""
        return self._output_of("-m", "petiole.workers.cli", *arguments)

    def _output_of(self, *command: str) -> str:
        with TemporaryFile() as output, TemporaryFile() as errors:
            code = self._python(*command, outputs=(output, errors)).wait(timeout=60)
            output.seek(0)
            errors.seek(0)
            assert code == 0, errors.read().decode()
            return output.read().decode()

    def _python(
        self, *command: str, outputs: tuple[IO[bytes], IO[bytes]], forked: bool = True
    ) -> subprocess.Popen[bytes]:
        if forked and loads_the_same(command, self.environment, self.home):
            return Fork(command, self.environment, self.home, *outputs)
        output, errors = outputs
        return subprocess.Popen(
            [sys.executable, *command], env=self.environment, cwd=self.home, stdout=output, stderr=errors
        )

    def module(self, name: str, source: str) -> None:
        """Put a module where the processes find it."""
        (self.home / f"{name}.py").write_text(source)

    def logs(self) -> str:
        """Read what all processes printed."""
        return "\n".join(log.read_text() for log in sorted(self.home.glob("*.log")))


@contextmanager
def holding_still(*pids: int) -> Iterator[None]:
    """Stop processes where they are (SIGSTOP), and let them go on after the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def free_ports(count: int) -> list[int]:
    """Find ports on loopback that nobody listens on, below those that the system hands out for connections."""
    free: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            if len(free) < count and probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free
