"""Probes: ready says no while something is missing, within three seconds; alive says no of a worker that is stuck."""

from __future__ import annotations

import socket
import time

import pytest

from petiole.workers.observability import liveness
from petiole.workers.observability.liveness import Pulse, lifelessness, pulse_file
from petiole.workers.observability.readiness import unreadiness
from tests.support.apps import a_bus
from tests.support.processes import holding_still


def test_ready_names_what_is_missing(system, server, proxy, eventually):
    bus = a_bus(server.url)
    assert unreadiness(bus) is None
    assert "no worker consumes the queue one" in str(unreadiness(bus, queue="one"))
    system.worker("only")
    assert unreadiness(bus, queue="one", worker="only") is None
    assert "does not consume other" in str(unreadiness(bus, queue="other", worker="only"))
    assert "another does not answer" in str(unreadiness(bus, worker="another"))

    proxy.is_silent = True
    began = time.monotonic()
    silent = unreadiness(a_bus(proxy.url))
    took_s = time.monotonic() - began
    server.stop()

    assert "did not answer within 3 s" in str(silent)
    assert took_s < 4
    assert "does not answer" in str(unreadiness(bus))


def test_the_probes_exit_with_0_or_1_and_the_reason(system, server):
    ready = system.start("petiole.workers.cli", "ready")
    dead = system.start("petiole.workers.cli", "alive", "nobody@nowhere")
    assert (ready.wait(30), dead.wait(30)) == (0, 1)
    server.stop()

    unready = system.start("petiole.workers.cli", "ready")

    assert unready.wait(30) == 1
    assert "not ready: the state store does not answer" in system.logs()
    assert "not alive: no worker nobody@nowhere was started here" in system.logs()


def test_a_worker_that_is_stuck_has_no_pulse_and_one_without_a_broker_has(system, server, eventually, monkeypatch):
    worker = system.worker("only", "--pool", "prefork", "-c", "1")
    node = f"only@{socket.gethostname()}"
    monkeypatch.setattr(liveness, "DEAD_S", 3.0)
    eventually(lambda: lifelessness(node) is None, 10)

    with holding_still(worker.pid):
        eventually(lambda: "has not turned its loop" in str(lifelessness(node)), 15)
    eventually(lambda: lifelessness(node) is None, 10)
    server.kill()
    gone_at = time.monotonic()
    eventually(lambda: time.monotonic() > gone_at + 4, 10)

    assert lifelessness(node) is None
    server.start()


@pytest.mark.parametrize("has_loop", [True, False])
def test_a_loop_that_does_not_turn_costs_the_pulse(has_loop, eventually):
    heart = Pulse(f"test-{time.monotonic_ns()}@here")
    file = pulse_file(heart.node)
    if has_loop:
        heart.turned_at = time.monotonic() - liveness.STUCK_S - 1

    heart.start()

    eventually(lambda: has_loop or file.exists(), 5)
    assert file.exists() is not has_loop
    heart.end()
    assert not file.exists()
