"""A worker on Redis and one on RabbitMQ, whose queue anything may be put into."""

from __future__ import annotations

import kombu
import kombu.pools
import pytest

from tests.faults.malformed.messages import System
from tests.support.inside import delete_queues


@pytest.fixture
def system(node, clean_broker_url, eventually, caplog):
    caplog.set_level("CRITICAL", "petiole")
    system = System(node, f"petiole+{clean_broker_url}", clean_broker_url, eventually)
    yield system
    system.bus.close()


@pytest.fixture
def on_rabbitmq(node, rabbit_url, clean_broker_url, eventually, caplog):
    caplog.set_level("CRITICAL", "petiole")
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "one", "publish")
        node.environment.update(PETIOLE_BROKER_URL=rabbit_url, PETIOLE_STATE_URL=clean_broker_url)
        yield System(node, rabbit_url, clean_broker_url, eventually), connection.channel()
        delete_queues(connection, "one", "publish")
    kombu.pools.reset()
