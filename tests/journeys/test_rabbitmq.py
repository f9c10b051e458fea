"""A publisher on RabbitMQ, without any worker: what it meets when the broker is not as it was."""

from __future__ import annotations

import kombu.pools
import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown, UsageError
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from tests.support import apps
from tests.support.errors import has_code
from tests.support.inside import Inside, delete_queues


@pytest.fixture
def channel(rabbit_url):
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "memory", "publish")
        yield connection.channel()


@pytest.fixture
def bus(rabbit_url, clean_broker_url, channel):
    memory = Subscription(agent="memory", function="keep", patterns=("input.*",))
    bus = a_bus(rabbit_url, clean_broker_url, memory)
    yield bus
    # Kombu's pools belong to no bus: the next one would find connections that declared its queues already.
    kombu.pools.reset()


def a_bus(broker_url: str, state_url: str, *heard_by: Subscription) -> EventBus:
    conf = {"broker_connection_timeout": 1, "task_publish_retry_policy": {"max_retries": 0}}
    return apps.a_bus(broker_url, *heard_by, conf=conf, state_url=state_url)


def an_event(priority: int = 5) -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hello"), priority=priority)


def waiting(channel, queue):
    return channel.queue_declare(queue, passive=True).message_count


def test_urgent_events_have_a_lane_of_their_own(bus, channel):
    for priority in (9, 7, 6, 0):
        apps.publish_once(bus, an_event(priority))

    assert (waiting(channel, "memory.urgent"), waiting(channel, "memory")) == (2, 2)


def test_a_queue_deleted_behind_the_publishers_back_is_made_again_with_the_message_in_it(bus, channel):
    apps.publish_once(bus, an_event())
    bus.app.tasks["petiole.publish"].delay(an_event())
    channel.queue_delete("memory")
    channel.queue_delete("publish")

    apps.publish_once(bus, an_event())
    bus.app.tasks["petiole.publish"].delay(an_event())

    assert (waiting(channel, "memory"), waiting(channel, "publish")) == (1, 1)


def test_a_queue_of_another_kind_is_refused_by_name(bus, channel):
    channel.queue_declare("memory", durable=True, auto_delete=False)

    with pytest.raises(
        UsageError, check=has_code("queue_declared_otherwise"), match="'x-queue-type' for queue 'memory'"
    ):
        apps.publish_once(bus, an_event())

    channel.queue_delete("memory")
    apps.publish_once(bus, an_event())
    assert waiting(channel, "memory") == 1


def test_without_a_broker_nothing_is_recorded(bus, clean_broker_url):
    lost = a_bus("amqp://127.0.0.1:1//", clean_broker_url)

    with pytest.raises(BrokerUnavailable, match="could not be reached while publishing input") as told:
        apps.publish_once(lost, an_event())

    assert not isinstance(told.value, PublishOutcomeUnknown)
    assert Inside(bus).topics() == []


def test_a_wrong_password_is_told_as_an_unreachable_broker(rabbit_url, clean_broker_url):
    stranger = a_bus(rabbit_url.replace("guest:guest", "guest:guess"), clean_broker_url)

    with pytest.raises(BrokerUnavailable):
        apps.publish_once(stranger, an_event())


def test_an_uncertain_publication_says_so_and_is_completed_by_publishing_again(bus, channel, rabbit, monkeypatch):
    apps.publish_once(bus, an_event())
    apps.wait_for_confirmations(0.3, monkeypatch)
    uncertain = an_event()

    with rabbit.frozen(), pytest.raises(PublishOutcomeUnknown, match="publish the same events again"):
        apps.publish_once(bus, uncertain)

    assert apps.publish_once(bus, uncertain).was_repeated is False
    assert apps.publish_once(bus, uncertain).was_repeated is True
    assert waiting(channel, "memory") in {2, 3}, "the frozen broker may have had it, too; the inbox knows its id"
    assert len(Inside(bus).topics()) == 2
