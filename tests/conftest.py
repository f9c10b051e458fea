"""What all tests share: a real broker, processes that really run, and events to publish."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.workers.process import embedded_broker
from tests.support.brokers import RABBITMQ, RabbitServer
from tests.support.inside import Inside
from tests.support.processes import ROOT, Node
from tests.support.waiting import wait_until

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


@pytest.fixture
def inside(clean_broker_url: str) -> Inside:
    """Give what that server holds of Petiole."""
    return Inside(clean_broker_url)


@pytest.fixture
def client(clean_broker_url: str) -> Iterator[Any]:
    """Give a client of that server, for what a test's own handlers write there."""
    with redis.Redis.from_url(clean_broker_url, decode_responses=True) as client:
        yield client


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
