from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import fakeredis
import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from kombu.message import Message

from petiole.tasks.bus import EventBus
from petiole.tasks.consuming import request
from petiole.tasks.consuming.request import TaskRequest
from petiole.tasks.publication import PublishTask
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.channel import BatchingChannel
from tests.support.apps import a_bus


@pytest.fixture
def bus():
    bus = a_bus(state=fakeredis.FakeRedis(decode_responses=True))
    bus.app.conf.update(broker_url="memory://", result_backend="cache+memory://")
    return bus


@pytest.fixture
def crashes(monkeypatch):
    request_ids: list[str] = []
    monkeypatch.setattr(request, "record_crash", lambda request: request_ids.append(request.id))
    return request_ids


class BrokerCalls(list[Any]):
    """Records how a message was settled at the broker."""

    def ack(self, *_: object) -> None:
        self.append("acknowledged")

    def reject(self, logger: object, errors: object, requeue: bool) -> None:
        self.append("requeued" if requeue else "rejected")


def a_request(bus: EventBus, calls: BrokerCalls, document: object) -> TaskRequest:
    message = Message(
        json.dumps([[document], {}, None]),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": str(uuid4()), "task": PublishTask.name},
        delivery_info={"exchange": "", "routing_key": "publish"},
    )
    return TaskRequest(message, bus=bus, task=bus.publish, on_ack=calls.ack, on_reject=calls.reject)


def failure_of(error: BaseException) -> Any:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def test_a_process_crash_is_counted_and_the_delivery_is_requeued(bus, crashes):
    request = a_request(bus, calls := BrokerCalls(), {})

    request.on_failure(failure_of(WorkerLostError("killed")))

    assert (calls, crashes) == (["requeued"], [request.id])


def test_a_hard_time_limit_is_dead_lettered_and_acknowledged(bus, crashes):
    request = a_request(bus, calls := BrokerCalls(), {"event_type": "order.placed"})

    request.on_failure(failure_of(TimeLimitExceeded(5)))

    (letter,) = bus.stores.dead_letters.all()
    assert (calls, crashes) == (["acknowledged"], [])
    assert (letter.id, letter.cause, letter.document) == (request.id, "failed", {"event_type": "order.placed"})


def test_a_hard_time_limit_whose_dead_letter_cannot_be_stored_is_requeued(bus, crashes):
    bus.stores.dead_letters._client.set("petiole:dead_letters", "in the way")
    request = a_request(bus, calls := BrokerCalls(), {})

    request.on_failure(failure_of(TimeLimitExceeded(5)))

    assert calls == ["requeued"]


class GiveBacks(BatchingChannel):
    """Records what was given back, and how."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], str]] = []

    def give_back(self, tags: Sequence[str], way: str) -> None:
        self.calls.append((list(tags), way))


def test_a_process_crash_of_a_queue_entry_is_counted_in_the_entry(bus):
    request = a_request(bus, BrokerCalls(), {})
    request.message.headers["petiole_entry"] = QueueEntry("0/1-0", "memory.keep").head
    channel = GiveBacks()
    request.message.channel, request.message.delivery_tag = channel, "7"

    request.on_failure(failure_of(WorkerLostError("killed")))

    assert channel.calls == [(["7"], "crashed")]
