"""A publisher on RabbitMQ, without any worker: what it meets when the broker is not as it was."""

from __future__ import annotations

from typing import Any

import kombu.pools
import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, PublicationUncertain, QueueDeclaredOtherwise
from petiole.events.subscriptions import Subscription
from petiole.tasks.broker import producer
from petiole.tasks.broker.topology import RABBITMQ, lanes
from petiole.tasks.celery import EventApp
from petiole.tasks.publication import Publish
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.document import admit
from petiole.tasks.settings import Settings

QUEUES = [lane for queue in ("memory", "publish") for lane in lanes(queue, RABBITMQ)]


@pytest.fixture
def channel(rabbit_url):
    with kombu.Connection(rabbit_url) as connection:
        channel: Any = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
        yield channel


@pytest.fixture
def app(rabbit_url, clean_broker_url, channel):
    app = an_app(rabbit_url, clean_broker_url)
    app.stores.directory.announce([Subscription(agent="memory", function="keep", patterns=("input.*",))])
    yield app
    # Kombu's pools belong to no app: the next one would find connections that declared its queues already.
    kombu.pools.reset()


def an_app(broker_url: str, state_url: str) -> EventApp:
    app = EventApp("rabbit", settings=Settings(state_url=state_url), set_as_current=False)
    app.conf.update(broker_url=broker_url, broker_connection_timeout=1, task_publish_retry_policy={"max_retries": 0})
    app.adopt(Publish)
    return app


def an_event(priority: int = 5) -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hello"), priority=priority)


def publish(app: EventApp, event: TextMessageEvent) -> Publication:
    return dispatch(app, [admit(event, app.event_registry, 10_000)])[0]


def waiting(channel, queue):
    return channel.queue_declare(queue, passive=True).message_count


def test_urgent_events_have_a_lane_of_their_own(app, channel):
    for priority in (9, 7, 6, 0):
        publish(app, an_event(priority))

    assert (waiting(channel, "memory.urgent"), waiting(channel, "memory")) == (2, 2)


def test_a_queue_deleted_behind_the_publishers_back_is_made_again_with_the_message_in_it(app, channel):
    publish(app, an_event())
    app.tasks[Publish.name].delay(an_event())
    channel.queue_delete("memory")
    channel.queue_delete("publish")

    publish(app, an_event())
    app.tasks[Publish.name].delay(an_event())

    assert (waiting(channel, "memory"), waiting(channel, "publish")) == (1, 1)


def test_a_queue_of_another_kind_is_refused_by_name(app, channel):
    channel.queue_declare("memory", durable=True, auto_delete=False)

    with pytest.raises(QueueDeclaredOtherwise, match="'x-queue-type' for queue 'memory'"):
        publish(app, an_event())

    channel.queue_delete("memory")
    publish(app, an_event())
    assert waiting(channel, "memory") == 1


def test_without_a_broker_nothing_is_recorded(app, clean_broker_url):
    lost = an_app("amqp://127.0.0.1:1//", clean_broker_url)

    with pytest.raises(BrokerUnavailable, match="could not be reached while publishing input") as told:
        publish(lost, an_event())

    assert not isinstance(told.value, PublicationUncertain)
    assert app.stores.history.since() == []


def test_a_wrong_password_is_told_as_an_unreachable_broker(rabbit_url, clean_broker_url):
    stranger = an_app(rabbit_url.replace("guest:guest", "guest:guess"), clean_broker_url)

    with pytest.raises(BrokerUnavailable):
        publish(stranger, an_event())


def test_an_uncertain_publication_says_so_and_is_completed_by_publishing_again(app, channel, rabbit, monkeypatch):
    publish(app, an_event())
    monkeypatch.setitem(producer._CONFIRMED, "confirm_timeout", 0.3)
    uncertain = an_event()

    with rabbit.frozen(), pytest.raises(PublicationUncertain, match="publish the same events again"):
        publish(app, uncertain)

    assert publish(app, uncertain).was_repeated is False
    assert publish(app, uncertain).was_repeated is True
    assert waiting(channel, "memory") in {2, 3}, "the frozen broker may have had it, too; the inbox knows its id"
    assert len(app.stores.history.since()) == 2
