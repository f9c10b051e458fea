"""The topology that publishers and workers share."""

from __future__ import annotations

import pytest

from petiole.tasks.agents import Agent
from petiole.tasks.broker.topology import broker_queue, broker_queues, logical_queue, queue_declaration
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
def test_urgent_events_have_a_separate_queue_on_rabbitmq(priority, driver, expected):
    assert broker_queue("memory", priority, driver) == expected


def test_every_broker_queue_maps_to_its_agent():
    assert {logical_queue(queue) for queue in broker_queues("memory", "amqp")} == {"memory"}


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "amqp://127.0.0.1:1"])
@pytest.mark.parametrize("name", ["publish", "memory"])
def test_a_publisher_declares_a_queue_as_a_worker_does(url, name):
    bus = a_bus(url)
    bus.include(Agent("memory"))

    declared, expected = bus.app.amqp.queues[name], queue_declaration(name, bus.driver)

    assert declared.queue_arguments == expected.queue_arguments
    assert (declared.exchange.name, declared.exchange.type) == (expected.exchange.name, expected.exchange.type)
    assert (declared.routing_key, declared.durable) == (name, True)


def test_selecting_an_agents_queue_consumes_all_its_broker_queues():
    bus = a_bus("amqp://127.0.0.1:1")
    bus.include(Agent("memory"), Agent("llm"))

    bus.app.amqp.queues.select(["memory"])

    assert list(bus.app.amqp.queues.consume_from) == ["memory.urgent", "memory"]
    bus.app.amqp.queues.deselect(["memory"])
    assert list(bus.app.amqp.queues.consume_from) == []
