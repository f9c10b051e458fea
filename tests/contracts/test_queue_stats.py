"""The figures of many queues at once are those of each queue, whatever waits there and whatever the prefix is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from petiole.tasks.broker.queue_stats import queue_depth, queue_depths, queue_lags
from petiole.tasks.publishing.delayed import send_due
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


def test_a_delayed_event_lags_by_its_age_since_it_was_due(clean_broker_url, a_message, eventually):
    bus = EventBus(Celery("shop", broker=clean_broker_url), settings=Settings(broker_url=clean_broker_url))
    published = bus.publish.run(a_message(), delay=2)

    eventually(lambda: send_due(bus) == 1, 10)
    with bus.app.connection_for_read() as connection:
        lags = queue_lags(bus, connection, QUEUES)

    assert published.due is not None
    assert 0 <= lags["publish"] <= (bus.now() - published.due).total_seconds()


@pytest.mark.parametrize("timestamp", ["2026-01-01T00:00:00", "0001-01-01", "never", None, 7])
def test_a_message_of_a_stranger_breaks_no_figures(clean_broker_url, timestamp):
    bus = EventBus(Celery("shop", broker=clean_broker_url), settings=Settings(broker_url=clean_broker_url))
    Celery("stranger", broker=clean_broker_url).send_task("a.task", args=[{"timestamp": timestamp}], queue="publish")

    with bus.app.connection_for_read() as connection:
        lags = queue_lags(bus, connection, QUEUES)
        depths = queue_depths(bus, connection, QUEUES)

    assert depths["publish"] == 1
    assert all(lag >= 0 for lag in lags.values())
