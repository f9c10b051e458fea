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

from tests.support.polling import wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Node:
    """Processes of one system: they share a broker, an environment and a folder of modules."""

    environment: dict[str, str]
    home: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process; it is ended with the test."""
        with (self.home / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def worker(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it consumes."""
        # Mingling is a second in which it listens for others, before it is ready.
        alone = ("--pool", "solo", "-l", "INFO", "--without-mingle")
        process = self.start("celery", "-A", "workers", "worker", "-n", f"{name}@%h", *alone, *options)
        log = self.home / f"{len(self.processes) - 1}.log"
        wait_until(lambda: "ready." in log.read_text(), 30, lambda: log.read_text()[-3000:])
        return process

    def run(self, code: str) -> str:
        """Run Python code in a process of its own; returns what it printed."""
        return self._output_of("-c", code)

    def command(self, *arguments: str) -> str:
        """Type `petiole …` in a process of its own; returns what it printed."""
        return self._output_of("-m", "petiole.workers.cli", *arguments)

    def _output_of(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

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
