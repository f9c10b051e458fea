"""Flower's page of queues shows what waits for agents."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from petiole.tasks import Agent
from tests.support.apps import a_bus
from tests.support.processes import free_ports

FLOWER = Path(__file__).parents[2] / "build" / "flower"
"""Where `make test` installs Flower: outside the environment, whose `celery` would load it at each start."""


@pytest.fixture(autouse=True)
def _flower(monkeypatch):
    if not FLOWER.is_dir() and not os.environ.get("CI"):
        pytest.skip("without Flower; `make build/flower/.built` installs it")
    monkeypatch.syspath_prepend(FLOWER)


def fetch(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError as error:
        return 0, str(error)


def test_flower_reads_the_queues_of_our_transport_from_the_bus(clean_broker_url, a_message, monkeypatch):
    views: Any = importlib.import_module("flower.views")
    monkeypatch.setattr(views, "Broker", views.Broker)
    slow = Agent("slow")

    @slow.on("input.*")
    def handle(event):
        pass

    bus = a_bus(clean_broker_url, slow)
    bus.publish_many([a_message(), a_message(), a_message()])
    with bus.app.connection_for_read() as connection:
        broker = views.Broker(connection.as_uri(include_password=True))

    assert asyncio.run(broker.queues(["slow", "an-apps-own"])) == [
        {"name": "an-apps-own", "messages": 0, "messages_ready": 0, "messages_unacknowledged": 0},
        {"name": "slow", "messages": 3, "messages_ready": 3, "messages_unacknowledged": 0},
    ]
    assert type(views.Broker("amqp://127.0.0.1//", http_api=None)).__name__ == "RabbitMQ"


SLOW = """
import time
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("slow")

@agent.on("input.*")
def handle(event: Event) -> None:
    time.sleep(60)
"""


@pytest.mark.long
def test_flower_shows_what_waits_in_a_queue_and_what_its_workers_have(node, inside, a_message, eventually):
    (port,) = free_ports(1)
    node.module("slow", SLOW)
    node.environment.update({"PETIOLE_AGENTS": "slow", "FLOWER_UNAUTHENTICATED_API": "true"})
    node.worker("w", "--pool", "prefork", "-c", "1", "--prefetch-multiplier", "1")
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    bus.publish_many([a_message() for _ in range(50)])

    node.environment["PYTHONPATH"] += f"{os.pathsep}{FLOWER}"
    node.start("celery", "-A", "workers", "flower", "--address=127.0.0.1", f"--port={port}")

    def slow_queue():
        _, listed = fetch(port, "/api/queues/length")
        queues = json.loads(listed)["active_queues"] if listed.startswith("{") else []
        return next((each for each in queues if each["name"] == "slow"), None)

    eventually(slow_queue, 40, node.logs)
    queue = slow_queue()
    assert queue["messages"] == 50
    assert queue["messages_unacknowledged"] == inside.leases() > 0
    assert queue["messages_ready"] == inside.queue_depth("slow") > 0
    status, page = fetch(port, "/broker")
    assert (status, '<tr id="slow">' in page) == (200, True)
