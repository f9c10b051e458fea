"""A system on Redis and on RabbitMQ, and its agents."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
import redis

from petiole.workers.process import embedded_broker
from tests.contracts.brokers.system import System, delete_queues, restart_redis


@pytest.fixture(params=["redis", "amqp"])
def system(request: pytest.FixtureRequest, node: Any, clean_broker_url: str, tmp_path: Path) -> Iterator[System]:
    home = tmp_path / "broker"
    if request.param == "redis":
        # Broker and state store are one server, as they are by default.
        url = state_url = embedded_broker.start_broker(home).url
        restart = partial(restart_redis, home)
    else:
        url, state_url = request.getfixturevalue("rabbit_url"), clean_broker_url
        # Ended gently: what 3.10 loses when it is killed early is in docs/guarantees.md.
        restart = request.getfixturevalue("rabbit").restart
        delete_queues(url)
    node.environment.update(PETIOLE_BROKER_URL=url, PETIOLE_STATE_URL=state_url, PETIOLE_VISIBILITY_TIMEOUT_S="1")
    state = redis.Redis.from_url(state_url, decode_responses=True)
    system = System(request.param, url, state, node, restart)
    yield system
    for worker in node.processes:
        worker.kill()
        worker.wait(timeout=10)
    # Kombu's pools belong to no bus: the next one would find connections that declared its queues already.
    kombu.pools.reset()
    embedded_broker.stop_broker(home)
