"""What all tests share: a real broker, processes that really run, and events to publish."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import kombu
import psutil
import pytest
import redis
from amqp.exceptions import AMQPError

from petiole.events import TextContent, TextMessageEvent
from petiole.workers.process import embedded_broker

ROOT = Path(__file__).parent.parent

# What is compiled once is not compiled again by each of the hundreds of processes that the tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that runs the tests in the background has these ignored, and so would all processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, and has a shorter sibling here, unless PETIOLE_FAULTS=full asks for it."""
    if os.environ.get("PETIOLE_FAULTS") != "full":
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real server for the whole run; tests that share it keep apart by database or by prefix."""
    home = tmp_path_factory.mktemp("broker")
    yield embedded_broker.start(home).url
    embedded_broker.stop(home)


@pytest.fixture
def clean_broker_url(broker_url: str) -> str:
    """Give the real server with nothing in it."""
    redis.Redis.from_url(broker_url).flushall()
    return broker_url


RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitServer:
    """Debian's RabbitMQ under a folder of its own, on loopback only."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._node_port, self._distribution_port, self._names_port = free_ports(3)
        self._names: psutil.Popen | None = None
        self._server: psutil.Popen | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._node_port}//"

    def start(self) -> None:
        """Start the server, and before it the process that Erlang nodes find each other by, or it starts its own."""
        self._names = self._run("epmd", "-port", str(self._names_port), "-address", "127.0.0.1")
        # The script, not the command of that name: that one changes to a user of its own.
        self._server = self._run(str(RABBITMQ))
        wait_until(self._answers, 60, self.log)

    def restart(self) -> None:
        """Let the server end by itself, and start it again."""
        assert self._server is not None
        with suppress(psutil.NoSuchProcess):
            for process in self._server.children():
                process.terminate()
        self._server.wait(timeout=30)
        self.kill()
        self.start()

    def kill(self) -> None:
        """End all processes at once. The data stay."""
        for leader in filter(None, (self._server, self._names)):
            with suppress(psutil.NoSuchProcess):
                for process in (*leader.children(recursive=True), leader):
                    process.kill()
            leader.wait(timeout=20)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server hold still: connections stay open, and nothing answers."""
        assert self._server is not None
        processes = self._server.children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def log(self) -> str:
        """Read the last words of the server."""
        return (self._home / "output.log").read_text()[-3000:]

    def _run(self, *command: str) -> psutil.Popen:
        with (self._home / "output.log").open("ab") as log:
            return psutil.Popen(
                command, env=self._environment(), cwd=self._home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self.log()
        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except (OSError, AMQPError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),  # of the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_NODENAME": f"petiole-{self._node_port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._node_port),
            # Loopback for the distribution too; and no spinning while idle, for the sake of small machines.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }


def free_ports(count: int) -> list[int]:
    """Find ports on loopback that nobody listens on, below those that the system hands out for connections."""
    free: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            if len(free) < count and probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Start RabbitMQ for the whole run. Without Debian's package: a skip, and under CI=true a failure."""
    if not RABBITMQ.exists():
        missing = f"{RABBITMQ} is missing: apt-get install rabbitmq-server, as .ci/run does"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def rabbit_url(rabbit: RabbitServer) -> str:
    """Give the URL of a RabbitMQ; tests that share it delete the queues they used."""
    return rabbit.url


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
