"""Fixtures of all tests: a real broker, real processes, and events to publish."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.workers.process import embedded_broker
from tests.support.brokers import RABBITMQ, RabbitServer
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.processes import ROOT, Node

# The tests start hundreds of processes, which need not compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell ignores these signals for background jobs, and the processes that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


# Random cases are the same in each run, so that a run fails for what was changed. `make faults` draws new ones.
hypothesis.settings.register_profile("petiole", derandomize=os.environ.get("PETIOLE_FAULTS") != "full")
hypothesis.settings.load_profile("petiole")

_FIXTURES_WITH_PROCESSES = {"broker_url", "rabbit", "wheel"}
"""Fixtures that start a server or a build."""

_PARAMETERS_WITH_PROCESSES = {"valkey"}
"""Parameters for which a fixture asks for `broker_url`."""


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by these marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that start processes. Deselect those marked `long` unless PETIOLE_FAULTS=full is set."""
    for item in items:
        if _starts_processes(item):
            item.add_marker(pytest.mark.processes)
    if os.environ.get("PETIOLE_FAULTS") != "full":
        long_tests = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in long_tests]
        config.hook.pytest_deselected(items=long_tests)


def _starts_processes(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return bool(fixtures & _FIXTURES_WITH_PROCESSES) or any(
        isinstance(value, str) and value in _PARAMETERS_WITH_PROCESSES for value in parameters
    )


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one real server for the whole run. Tests separate their data by database or by key prefix."""
    home = tmp_path_factory.mktemp("broker")
    yield embedded_broker.start_broker(home).url
    embedded_broker.stop_broker(home)


@pytest.fixture
def clean_broker_url(broker_url: str) -> str:
    """Return the URL of the real server, emptied."""
    redis.Redis.from_url(broker_url).flushall()
    return broker_url


@pytest.fixture
def inside(clean_broker_url: str) -> Inside:
    """Return a view of Petiole's data on that server."""
    return Inside(clean_broker_url)


@pytest.fixture
def client(clean_broker_url: str) -> Iterator[Any]:
    """Yield a client of that server, for the keys that a test's own handlers write."""
    with redis.Redis.from_url(clean_broker_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Start RabbitMQ for the whole run. Skip without Debian's package, or fail under CI=true."""
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
    """Return the URL of RabbitMQ. Tests delete the queues that they use."""
    return rabbit.url


@pytest.fixture
def node(clean_broker_url: str, tmp_path: Path) -> Iterator[Node]:
    """Yield a system on an empty real broker. Its processes are killed after the test."""
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


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Return `wait_until`."""
    return wait_until


@pytest.fixture
def a_message() -> Callable[..., TextMessageEvent]:
    """Return a builder of text messages with default values."""

    def build(text: str = "Hello", stream_id: str = "a-stream", **fields: object) -> TextMessageEvent:
        return TextMessageEvent.model_validate({"stream_id": stream_id, "content": TextContent(text=text)} | fields)

    return build
