"""The figures of many queues at once are those of each queue, whatever waits there and whatever the prefix is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from petiole.tasks.broker.queue_stats import queue_depth, queue_depths, queue_lags
from petiole.tasks.settings import Settings

QUEUES = ["shop", "publish", "empty"]


@pytest.mark.parametrize("prefix", ["petiole", "another"])
def test_depths_and_lags_of_many_queues_are_those_of_deliveries_and_messages(clean_broker_url, a_message, prefix):
    bus = EventBus(
        Celery("shop", broker=clean_broker_url), settings=Settings(key_prefix=prefix, broker_url=clean_broker_url)
    )
    bus.stores.directory.register([Subscription(agent="shop", function="act", patterns=("input.*",))])
    bus.publish(a_message("one", priority=0))
    bus.publish(a_message("two", priority=9))
    bus.publish.delay(a_message("three", timestamp=datetime.now(UTC) - timedelta(minutes=1)))

    with bus.app.connection_for_read() as connection:
        depths = queue_depths(bus, connection, QUEUES)
        each = {queue: queue_depth(bus, connection, queue) for queue in QUEUES}
        lags = queue_lags(bus, connection, QUEUES)

    assert lags == {"shop": pytest.approx(0, abs=30), "publish": pytest.approx(60, abs=30)}
    assert depths == each == {"shop": 2, "publish": 1, "empty": 0}
