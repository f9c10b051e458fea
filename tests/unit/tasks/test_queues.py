"""Queues and lanes: what publishers and workers agree on."""

from __future__ import annotations

import pytest

from petiole.tasks.agents import Agent
from petiole.tasks.broker.topology import declaration, lane, lanes, queue_of
from tests.support.apps import a_bus


@pytest.mark.parametrize(
    ("priority", "driver", "expected"),
    [
        (9, "amqp", "memory.urgent"),
        (7, "amqp", "memory.urgent"),
        (6, "amqp", "memory"),
        (9, "redis", "memory"),
    ],
)
def test_urgent_events_have_a_lane_of_their_own_on_rabbitmq(priority, driver, expected):
    assert lane("memory", priority, driver) == expected


def test_every_lane_leads_back_to_its_queue():
    assert {queue_of(each) for each in lanes("memory", "amqp")} == {"memory"}


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "amqp://127.0.0.1:1"])
@pytest.mark.parametrize("name", ["publish", "memory"])
def test_a_publisher_declares_a_queue_as_a_worker_does(url, name):
    bus = a_bus(url)
    bus.include(Agent("memory"))

    declared, expected = bus.app.amqp.queues[name], declaration(name, bus.driver)

    assert declared.queue_arguments == expected.queue_arguments
    assert (declared.exchange.name, declared.exchange.type) == (expected.exchange.name, expected.exchange.type)
    assert (declared.routing_key, declared.durable) == (name, True)


def test_a_worker_that_is_told_a_queue_serves_all_its_lanes():
    bus = a_bus("amqp://127.0.0.1:1")
    bus.include(Agent("memory"), Agent("llm"))

    bus.app.amqp.queues.select(["memory"])

    assert list(bus.app.amqp.queues.consume_from) == ["memory.urgent", "memory"]
    bus.app.amqp.queues.deselect(["memory"])
    assert list(bus.app.amqp.queues.consume_from) == []
