"""A user's own project: a folder of modules, an environment without a word of ours, and a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
import redis

from tests.support.polling import wait_until
from tests.support.processes import Node


@dataclass(frozen=True)
class Project(Node):
    """The folder and the processes of a user who has Petiole installed."""

    def write(self, **sources: str) -> None:
        """Write modules of the project; a name with two underscores stands for a module in a package."""
        for name, source in sources.items():
            path = self.home.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(source))

    def worker_of(self, app: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker of the project's app, and wait until it consumes."""
        pool = () if {"-P", "-c"} & set(options) else ("-P", "solo")
        process = self.start("celery", "-A", app, "worker", *pool, "-l", "INFO", "--without-mingle", *options)
        log = self.home / f"{len(self.processes) - 1}.log"
        wait_until(lambda: "ready." in log.read_text() or process.poll() is not None, 30, log.read_text)
        assert process.poll() is None, log.read_text()[-5000:]
        return process

    def refused_worker(self, app: str, *options: str) -> tuple[int, str]:
        """Start a worker that ends by itself; returns its exit code and what it printed."""
        process = self.start("celery", "-A", app, "worker", "-P", "solo", *options)
        code = process.wait(timeout=30)
        return code, (self.home / f"{len(self.processes) - 1}.log").read_text()


@pytest.fixture
def project(clean_broker_url: str, tmp_path: Path) -> Iterator[Project]:
    """Give an empty project on an empty real broker, whose URL is in SHOP_BROKER; its processes end with the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1", "SHOP_BROKER": clean_broker_url}
    # Celery's own: it lets root take pickles, which one of the projects sends.
    environment["C_FORCE_ROOT"] = "1"
    project = Project(environment, tmp_path, [])
    yield project
    for process in project.processes:
        # A worker of processes ends them when it is told to.
        process.send_signal(signal.SIGQUIT)
    for process in project.processes:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


@pytest.fixture
def seen(clean_broker_url: str) -> Callable[[], list[str]]:
    """Read what the project's functions noted with `rpush("seen", …)`."""
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    return lambda: sorted(str(each) for each in client.lrange("seen", 0, -1))
