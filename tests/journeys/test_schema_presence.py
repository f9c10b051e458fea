"""Processes that disagree on an event type are told: a worker when it starts, a publisher when it publishes."""

from __future__ import annotations

import pytest

TYPES = """
import os
from typing import Literal
from petiole.events import Content, Event

class Order(Content):
    number: int
    if os.environ.get("HAS_NOTE"):
        note: str = ""

class OrderPlacedEvent(Event):
    event_type: Literal["order.placed"] = "order.placed"
    schema_version: int = int(os.environ.get("VERSION", "1"))
    content: Order
"""

AGENT = """
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("clerk")

@agent.on("order.placed")
def prepare(event: Event) -> None:
    pass
"""


@pytest.mark.timeout(180)
def test_a_worker_is_told_at_start_which_types_a_running_worker_has_with_another_schema(node):
    node.module("shop_types", TYPES)
    node.module("shop", AGENT)
    node.environment.update({"PETIOLE_EVENT_TYPES": "shop_types", "PETIOLE_AGENTS": "shop"})
    node.worker("first")

    node.environment.update({"HAS_NOTE": "1", "VERSION": "2"})
    node.worker("newer")
    assert "schema.differs" not in node.logs()

    node.environment["VERSION"] = "1"
    node.worker("careless")

    (told,) = [line for line in node.logs().splitlines() if "schema.differs" in line]
    assert "order.placed" in told
    assert "raise schema_version" in told
    assert "first@" in told


PUBLISH = """
import logging, sys
from shop_types import Order, OrderPlacedEvent
from petiole.tasks import publish

logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s %(topic)s %(worker)s")
for number in range(2):
    publish(OrderPlacedEvent(stream_id="s", content=Order(number=number)))
"""


@pytest.mark.timeout(180)
def test_a_publisher_is_told_once_which_types_a_running_worker_has_with_another_schema(node):
    node.module("shop_types", TYPES)
    node.module("shop", AGENT)
    node.environment.update({"PETIOLE_EVENT_TYPES": "shop_types", "PETIOLE_AGENTS": "shop"})
    node.worker("first")

    assert node.run(PUBLISH) == ""
    node.environment["HAS_NOTE"] = "1"
    told = node.run(PUBLISH)

    (line,) = [line for line in told.splitlines() if "schema.differs" in line]
    assert "order.placed" in line
    assert "first@" in line
