"""Liveness does not lie: a worker that is connected and takes nothing says so, at its port and as an event."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from petiole.workers.observability.liveness import find_liveness_problem
from tests.support.apps import a_bus
from tests.support.processes import free_ports

DEAF = """
import os
from petiole.events import TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.transport.channel import BatchingChannel

grants = BatchingChannel._credit
BatchingChannel._credit = lambda channel: 0 if os.path.exists("deaf") else grants(channel)
agent = Agent("one")

@agent.on("input.*")
def handle(event: TextMessageEvent) -> None:
    pass
"""


def probe(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode().strip()
    except OSError as error:
        return 0, str(error)


def test_a_connected_worker_that_takes_nothing_is_unhealthy_and_says_so(node, inside, a_message, eventually):
    (port,) = free_ports(1)
    node.module("one", DEAF)
    node.environment.update(
        {"PETIOLE_AGENTS": "one", "PETIOLE_METRICS_PORT": str(port), "PETIOLE_STALL_TIMEOUT_S": "1"}
    )
    bus, name = a_bus(node.environment["PETIOLE_BROKER_URL"]), f"w@{socket.gethostname()}"
    node.worker("w")
    eventually(lambda: probe(port, "/ready") == (200, "ready"), 20, node.logs)
    assert probe(port, "/alive") == (200, "alive")
    assert probe(port, "/other")[0] == 404

    (node.home / "deaf").touch()
    bus.publish_many([a_message() for _ in range(300)])  # a fetch that was sent before takes some

    eventually(lambda: probe(port, "/alive")[0] == 503, 30, node.logs)
    assert "some wait for one" in probe(port, "/alive")[1]
    assert probe(port, "/ready")[0] == 503
    eventually(lambda: "system.worker.stalled" in inside.topics(), 10, node.logs)
    eventually(lambda: "some wait for one" in str(find_liveness_problem(name)), 10)
    assert node.logs().count("worker.stalled") == 1

    (node.home / "deaf").unlink()

    eventually(lambda: probe(port, "/alive")[0] == 200, 20, node.logs)
    assert "worker.recovered" in node.logs()


def test_a_worker_without_a_broker_is_alive_and_not_ready(node, eventually):
    (port,) = free_ports(1)
    node.environment.update(
        {
            "PETIOLE_AGENTS": "petiole.workers.agents.output",
            "PETIOLE_METRICS_PORT": str(port),
            "PETIOLE_BROKER_URL": "redis://127.0.0.1:1/0",
        }
    )
    node.start("celery", "-A", "workers", "worker", "--pool", "solo", "-n", "alone@%h")

    eventually(lambda: probe(port, "/alive") == (200, "alive"), 20, node.logs)
    assert probe(port, "/ready") == (503, "not ready: the worker is starting")
