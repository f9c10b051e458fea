"""A run: one contestant on one fresh broker, with its node and its client as processes.

    with start_run(contestant, counts, …) as run:
        with run.node():                    start what handles events, and stop it in order
            ...
        with run.client() as client:        publish and request
            client.publish(first=1, count=500)

A publisher of some contestants reaches only subscribers that a node announced before: `run.register()`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.benchmarks.contestants import Command, Contestant
from tests.benchmarks.counters import Counts
from tests.benchmarks.servers import fresh_server

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {name: str(ROOT / "build" / name / "bin" / "python") for name in ("petiole", "peers", "traced")}
"""The interpreters of the contestants' environments, which `make bench` builds."""

_READY_S = 300.0  # ten thousand subscriptions take long; a process that ended is noticed at once
_STOP_S = 30.0
_LOG_CHARACTERS = 2_000


class ContestantError(RuntimeError):
    """A process of a contestant ended, or did not start."""


class Client:
    """The client process of a contestant (clients.py)."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def publish(self, *, first: int = 1, count: int, rate_hz: float | None = None) -> float:
        """Publish events one by one and return the seconds that it took."""
        return float(self._order("publish", first=first, count=count, rate_hz=rate_hz))

    def publish_by(self, way: str, *, first: int = 1, count: int) -> float:
        """Publish events in one of the ways of the contestant and return the seconds that it took."""
        return float(self._order(way, first=first, count=count))

    def request(self, *, callers: int, count: int) -> tuple[list[float], float]:
        """Send requests from several callers; return the milliseconds of each, and the seconds of all."""
        result = self._order("request", callers=callers, count=count)
        return result["times_ms"], result["seconds"]

    def _order(self, order: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"result": '):
                return json.loads(line)["result"]
        raise ContestantError(f"the client ended: {_tail(self._log)}")


@dataclass(slots=True)
class Node:
    """The processes that a node's commands started."""

    processes: list[subprocess.Popen[bytes]]

    def tree(self) -> list[psutil.Process]:
        """List the processes and all their descendants."""
        tops = [psutil.Process(process.pid) for process in self.processes]
        return [each for top in tops for each in (top, *top.children(recursive=True))]

    def pause(self) -> None:
        """Stop all processes where they are, until `resume`."""
        for process in self.tree():
            process.suspend()

    def resume(self) -> None:
        for process in self.tree():
            process.resume()

    def kill(self) -> None:
        """End all processes at once, as a power cut does."""
        for process in self.tree():
            process.kill()
        self._wait()

    def stop(self) -> None:
        """Ask the processes to end in order; kill what is left after half a minute."""
        tree = self.tree() if all(process.poll() is None for process in self.processes) else []
        for process in self.processes:
            process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=_STOP_S)
        for process_left in alive:
            process_left.kill()
        self._wait()

    def _wait(self) -> None:
        for process in self.processes:
            process.wait(timeout=_STOP_S)


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant on a broker, which is empty at the start."""

    contestant: Contestant
    url: str
    counts: Counts
    counts_url: str
    subscribers: int
    logs: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def broker(self) -> redis.Redis:
        """A connection to the broker, past the contestant."""
        return redis.Redis.from_url(self.url)

    def register(self) -> None:
        """Let the broker know the subscribers, if publishers have to: start a process of the node and stop it again."""
        if self.contestant.registers:
            self.start_node(self.contestant.node[:1]).stop()

    @contextmanager
    def node(self) -> Iterator[Node]:
        """Run the contestant's node until the end of the block, from the moment that all its processes are ready."""
        node = self.start_node(self.contestant.node)
        try:
            yield node
        finally:
            node.stop()

    def start_node(self, commands: tuple[Command, ...]) -> Node:
        """Start commands and wait until all have reported to be ready. Raises ContestantError."""
        expected = self.counts.ready() + sum(command.reports for command in commands)
        node = Node([self._start(f"node-{number}", command.arguments) for number, command in enumerate(commands)])
        deadline = time.monotonic() + _READY_S
        while self.counts.ready() < expected:
            ended = [number for number, process in enumerate(node.processes) if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                node.stop()
                log = self.logs / f"node-{ended[0] if ended else 0}.log"
                raise ContestantError(f"{self.contestant.name} is not ready: {_tail(log)}")
            time.sleep(0.01)
        return node

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Run the contestant's client until the end of the block. It starts while the harness continues."""
        log = self.logs / "client.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [PYTHONS[self.contestant.python], "-m", "tests.benchmarks.clients", self.contestant.module],
                env=self._environment(),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            yield Client(process, log)
        finally:
            process.kill()
            process.communicate()

    def _start(self, name: str, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [PYTHONS[self.contestant.python], *arguments],
                env=self._environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "BENCH_"))}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PETIOLE_BROKER_URL": self.url,
            "PETIOLE_HOME": str(self.logs),
            "PETIOLE_AGENTS": f"tests.benchmarks.contestants.{self.contestant.module}",
            "BENCH_BROKER_URL": self.url,
            "BENCH_COUNTS_URL": self.counts_url,
            "BENCH_SUBSCRIBERS": str(self.subscribers),
            **self.contestant.environment,
            **self.environment,
        }


@contextmanager
def start_run(
    contestant: Contestant, counts_url: str, *, subscribers: int = 3, appends: bool = False, **environment: str
) -> Iterator[Run]:
    """Start a fresh broker for a contestant; `environment` is added to that of its processes."""
    counts = Counts(redis.Redis.from_url(counts_url))
    counts.clear()
    with fresh_server(appends=appends) as url, tempfile.TemporaryDirectory(prefix="bench-logs-") as logs:
        yield Run(contestant, url, counts, counts_url, subscribers, Path(logs), dict(environment))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:] or "no output"
