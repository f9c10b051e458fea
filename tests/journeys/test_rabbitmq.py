"""A publisher on RabbitMQ, without any worker: what it meets when the broker is not as it was."""

from __future__ import annotations

import kombu.pools
import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, PublicationUncertain, QueueDeclaredOtherwise
from petiole.events.subscriptions import Subscription
from petiole.tasks.celery import EventApp
from tests.support import apps
from tests.support.inside import Inside, delete_queues


@pytest.fixture
def channel(rabbit_url):
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "memory", "publish")
        yield connection.channel()


@pytest.fixture
def app(rabbit_url, clean_broker_url, channel):
    memory = Subscription(agent="memory", function="keep", patterns=("input.*",))
    app = an_app(rabbit_url, clean_broker_url, memory)
    yield app
    # Kombu's pools belong to no app: the next one would find connections that declared its queues already.
    kombu.pools.reset()


def an_app(broker_url: str, state_url: str, *heard_by: Subscription) -> EventApp:
    conf = {"broker_connection_timeout": 1, "task_publish_retry_policy": {"max_retries": 0}}
    return apps.an_app(broker_url, *heard_by, conf=conf, state_url=state_url)


def an_event(priority: int = 5) -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hello"), priority=priority)


def waiting(channel, queue):
    return channel.queue_declare(queue, passive=True).message_count


def test_urgent_events_have_a_lane_of_their_own(app, channel):
    for priority in (9, 7, 6, 0):
        apps.publish_once(app, an_event(priority))

    assert (waiting(channel, "memory.urgent"), waiting(channel, "memory")) == (2, 2)


def test_a_queue_deleted_behind_the_publishers_back_is_made_again_with_the_message_in_it(app, channel):
    apps.publish_once(app, an_event())
    app.tasks["petiole.publish"].delay(an_event())
    channel.queue_delete("memory")
    channel.queue_delete("publish")

    apps.publish_once(app, an_event())
    app.tasks["petiole.publish"].delay(an_event())

    assert (waiting(channel, "memory"), waiting(channel, "publish")) == (1, 1)


def test_a_queue_of_another_kind_is_refused_by_name(app, channel):
    channel.queue_declare("memory", durable=True, auto_delete=False)

    with pytest.raises(QueueDeclaredOtherwise, match="'x-queue-type' for queue 'memory'"):
        apps.publish_once(app, an_event())

    channel.queue_delete("memory")
    apps.publish_once(app, an_event())
    assert waiting(channel, "memory") == 1


def test_without_a_broker_nothing_is_recorded(app, clean_broker_url):
    lost = an_app("amqp://127.0.0.1:1//", clean_broker_url)

    with pytest.raises(BrokerUnavailable, match="could not be reached while publishing input") as told:
        apps.publish_once(lost, an_event())

    assert not isinstance(told.value, PublicationUncertain)
    assert Inside(app).topics() == []


def test_a_wrong_password_is_told_as_an_unreachable_broker(rabbit_url, clean_broker_url):
    stranger = an_app(rabbit_url.replace("guest:guest", "guest:guess"), clean_broker_url)

    with pytest.raises(BrokerUnavailable):
        apps.publish_once(stranger, an_event())


def test_an_uncertain_publication_says_so_and_is_completed_by_publishing_again(app, channel, rabbit, monkeypatch):
    apps.publish_once(app, an_event())
    apps.wait_for_confirmations(0.3, monkeypatch)
    uncertain = an_event()

    with rabbit.frozen(), pytest.raises(PublicationUncertain, match="publish the same events again"):
        apps.publish_once(app, uncertain)

    assert apps.publish_once(app, uncertain).was_repeated is False
    assert apps.publish_once(app, uncertain).was_repeated is True
    assert waiting(channel, "memory") in {2, 3}, "the frozen broker may have had it, too; the inbox knows its id"
    assert len(Inside(app).topics()) == 2
