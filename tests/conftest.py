"""What all tests share: a real broker, processes that really run, and events to publish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from events import TextContent, TextMessageEvent
from workers import broker

ROOT = Path(__file__).parent.parent

# A shell that runs the tests in the background has these ignored, and so would all processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real server for the whole run; tests that share it keep apart by database or by prefix."""
    home = tmp_path_factory.mktemp("broker")
    yield broker.start(home).url
    broker.stop(home)


@pytest.fixture
def clean_broker_url(broker_url: str) -> str:
    """Give the real server with nothing in it."""
    redis.Redis.from_url(broker_url).flushall()
    return broker_url


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
        process = self.start(
            "celery", "-A", "workers", "worker", "-n", f"{name}@%h", "--pool", "solo", "-l", "INFO", *options
        )
        log = self.home / f"{len(self.processes) - 1}.log"
        wait_until(lambda: "ready." in log.read_text(), 30, lambda: log.read_text()[-3000:])
        return process

    def run(self, code: str) -> str:
        """Run Python code in a process of its own; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", code],
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


@pytest.fixture
def node(clean_broker_url: str, tmp_path: Path) -> Iterator[Node]:
    """Give a system on an empty real broker; its processes are ended with the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    environment |= {
        "PETIOLE_BROKER_URL": clean_broker_url,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
    }
    node = Node(environment, tmp_path, [])
    yield node
    for process in node.processes:
        process.kill()
        process.wait(timeout=10)


def wait_until(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition; fails with the explanation after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s} s: {explain()}"
        time.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Give `wait_until` to tests."""
    return wait_until


@pytest.fixture
def a_message() -> Callable[..., TextMessageEvent]:
    """Build a text message of which only what is named matters."""

    def build(text: str = "Hello", stream_id: str = "a-stream", **fields: object) -> TextMessageEvent:
        return TextMessageEvent.model_validate({"stream_id": stream_id, "content": TextContent(text=text)} | fields)

    return build
