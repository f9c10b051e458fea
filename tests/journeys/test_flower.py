"""Flower's page of queues shows what waits for agents."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from tests.support.apps import a_bus
from tests.support.processes import free_ports


def fetch(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError as error:
        return 0, str(error)


SLOW = """
import time
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("slow")

@agent.on("input.*")
def handle(event: Event) -> None:
    time.sleep(60)
"""


def test_flower_shows_what_waits_in_a_queue_and_what_its_workers_have(node, inside, a_message, eventually):
    (port,) = free_ports(1)
    node.module("slow", SLOW)
    node.environment.update({"PETIOLE_AGENTS": "slow", "FLOWER_UNAUTHENTICATED_API": "true"})
    node.worker("w", "--pool", "prefork", "-c", "1", "--prefetch-multiplier", "1")
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    bus.publish_many([a_message() for _ in range(50)])

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
