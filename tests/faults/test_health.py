"""Probes: ready says no while something is missing, within three seconds; alive says no of a worker that is stuck."""

from __future__ import annotations

import socket
import time

import pytest

from petiole.events.subscriptions import Subscription
from petiole.workers.observability import liveness
from petiole.workers.observability.liveness import LivenessThread, find_liveness_problem, liveness_file
from petiole.workers.observability.readiness import find_readiness_problem
from tests.support.apps import a_bus
from tests.support.processes import holding_still


def test_ready_names_what_is_missing(system, server, proxy, eventually):
    bus = a_bus(server.url)
    assert "no handler is subscribed" in str(find_readiness_problem(bus))
    system.worker("only")
    assert find_readiness_problem(bus) is None
    assert "no worker consumes the queue other" in str(find_readiness_problem(bus, queue="other"))
    assert find_readiness_problem(bus, queue="one", worker="only") is None
    assert "does not consume other" in str(find_readiness_problem(bus, queue="other", worker="only"))
    assert "another does not reply" in str(find_readiness_problem(bus, worker="another"))

    proxy.is_silent = True
    began = time.monotonic()
    silent = find_readiness_problem(a_bus(proxy.url))
    took_s = time.monotonic() - began
    server.stop()

    assert "did not reply within 3 s" in str(silent)
    assert took_s < 15
    assert "does not reply" in str(find_readiness_problem(bus))


# A worker starts while the file `slow` exists: the others of its greenlets run meanwhile.
SLOW_START = """
import pathlib
import time
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("slow")

@agent.on("input.*")
def handle(event: Event) -> None: ...

@agent.on_start
def load() -> None:
    pathlib.Path("loading").touch()
    while pathlib.Path("slow").exists():
        time.sleep(0.05)
"""


def test_a_worker_that_is_starting_is_not_ready_also_if_a_greenlet_of_it_could_reply(system, server, eventually):
    pytest.importorskip("gevent", reason="gevent is not installed: make dev")
    system.module("slow_start", SLOW_START)
    # Celery orders the steps of a start by their hashes. With this seed, its mailbox came before what it needs.
    system.environment.update(PETIOLE_AGENTS="slow_start", PYTHONHASHSEED="6")
    (system.home / "slow").touch()
    bus = a_bus(server.url)
    system.start("celery", "-A", "workers", "worker", "-P", "gevent", "-n", "only@%h", "--without-mingle")
    eventually((system.home / "loading").exists, 30, system.logs)

    while_starting = find_readiness_problem(bus, worker="only")
    (system.home / "slow").unlink()

    assert while_starting is not None
    eventually(lambda: find_readiness_problem(bus, worker="only") is None, 20, system.logs)


def test_the_probes_exit_with_0_or_1_and_the_reason(system, server):
    a_bus(server.url, Subscription(agent="one", function="handle", patterns=("input.*",)))
    ready = system.start("petiole.workers.cli", "ready")
    dead = system.start("petiole.workers.cli", "alive", "nobody@nowhere")
    assert (ready.wait(30), dead.wait(30)) == (0, 1)
    server.stop()

    unready = system.start("petiole.workers.cli", "ready")

    assert unready.wait(30) == 1
    assert "not ready: the state store does not reply" in system.logs()
    assert "not alive: this user started no worker nobody@nowhere on this machine" in system.logs()


def test_a_worker_that_is_stuck_has_no_pulse_and_one_without_a_broker_has(system, server, eventually, monkeypatch):
    worker = system.worker("only", "--pool", "prefork", "-c", "1")
    node = f"only@{socket.gethostname()}"
    monkeypatch.setattr(liveness, "DEAD_AFTER_S", 3.0)
    eventually(lambda: find_liveness_problem(node) is None, 10)

    with holding_still(worker.pid):
        eventually(lambda: "dead or stuck" in str(find_liveness_problem(node)), 15)
    eventually(lambda: find_liveness_problem(node) is None, 10)
    server.kill()
    gone_at = time.monotonic()
    eventually(lambda: time.monotonic() > gone_at + 4, 10)

    assert find_liveness_problem(node) is None
    server.start()


@pytest.mark.parametrize("has_loop", [True, False])
def test_a_loop_that_does_not_turn_costs_the_pulse(has_loop, eventually):
    heart = LivenessThread(f"test-{time.monotonic_ns()}@here")
    file = liveness_file(heart.node)
    if has_loop:
        heart.last_iteration_at = time.monotonic() - liveness.STUCK_AFTER_S - 1

    heart.start()

    eventually(lambda: has_loop or file.exists(), 5)
    assert file.exists() is not has_loop
    heart.stop()
    assert not file.exists()
