"""Liveness does not lie: a worker that is connected and takes nothing says so, at its port and as an event."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request

from petiole.workers.cli.doctor.checks import find_problems
from petiole.workers.cli.doctor.facts import read_facts
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


PLAIN = """
from petiole.events import TextMessageEvent
from petiole.tasks import Agent

agent = Agent("one")

@agent.on("input.*")
def handle(event: TextMessageEvent) -> None:
    pass
"""


def findings(bus):
    return [finding.code for finding in find_problems(read_facts(bus))]


def test_a_worker_whose_consumer_was_cancelled_is_unhealthy_and_doctor_finds_it(node, inside, a_message, eventually):
    (port,) = free_ports(1)
    node.module("one", PLAIN)
    node.environment.update(
        {"PETIOLE_AGENTS": "one", "PETIOLE_METRICS_PORT": str(port), "PETIOLE_STALL_TIMEOUT_S": "2"}
    )
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"], stall_timeout_s=2)
    node.worker("w")

    assert bus.app.control.cancel_consumer("one", reply=True, timeout=10, limit=1)
    eventually(lambda: "Canceling queue one" in node.logs(), 20, node.logs)
    bus.publish_many([a_message() for _ in range(300)])  # a fetch that was sent before takes some

    eventually(lambda: "some wait for one" in probe(port, "/alive")[1], 30, node.logs)
    eventually(lambda: "system.worker.stalled" in inside.topics(), 10, node.logs)
    eventually(lambda: "stalled" in findings(bus), 20)

    assert bus.app.control.add_consumer("one", reply=True, timeout=10, limit=1)

    eventually(lambda: probe(port, "/alive")[0] == 200, 20, node.logs)
    eventually(lambda: "stalled" not in findings(bus), 20)


def test_a_worker_whose_only_agent_is_paused_is_alive_and_checks_no_queue(node, a_message, eventually):
    (port,) = free_ports(1)
    node.module("one", PLAIN)
    node.environment.update(
        {"PETIOLE_AGENTS": "one", "PETIOLE_METRICS_PORT": str(port), "PETIOLE_STALL_TIMEOUT_S": "1"}
    )
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"], stall_timeout_s=1)
    node.worker("w", "-Q", "one")
    node.command("agents", "pause", "one")
    bus.publish(a_message())
    published_at = time.monotonic()

    eventually(lambda: "agent_paused" in findings(bus) and time.monotonic() > published_at + 4, 30, node.logs)

    assert probe(port, "/alive") == (200, "alive")
    assert "stalled" not in findings(bus)
    assert "job.failed" not in node.logs()


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
