"""`petiole top`: what each agent does at this moment, live on a terminal and once in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest

from petiole.tasks import RateLimit
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.workers.cli.top import compute_rates
from petiole.workers.process import embedded_broker
from tests.support.apps import a_bus, as_default

SHOP = r"""
import time
from petiole.events import TextMessageEvent
from petiole.tasks import Agent, RetryPolicy

shop, store = Agent("shop"), Agent("store")

@shop.on("input.*", retry=RetryPolicy(max_attempts=1))
def sell(event: TextMessageEvent) -> None:
    if event.content.text == "broken":
        raise ValueError("broken")
    if event.content.text == "slow":
        time.sleep(600)

@store.on("input.*")
def keep(event: TextMessageEvent) -> None:
    pass
"""


@pytest.fixture
def shop(node, a_message, eventually, monkeypatch):
    """Yield a system: `store` is paused, and `shop` has handled one event, failed one, and handles one."""
    node.module("shop", SHOP)
    node.environment.update({"PETIOLE_AGENTS": "shop", "PETIOLE_METRICS": "true"})
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    node.worker("shop")
    membership = bus.stores.cluster_membership
    eventually(lambda: membership.read().agents.get("shop", SimpleNamespace(state="")).state == "started", 30)
    node.command("agents", "pause", "store")
    bus.publish(a_message("tomorrow"), delay=86_400)
    for text in ("good", "broken"):
        bus.publish(a_message(text))
    eventually(lambda: bus.stores.dead_letters.count() == 1, 30, node.logs)
    bus.publish(a_message("slow"))
    eventually(lambda: bus.stores.deliveries.in_flight()["shop"] == 1, 30, node.logs)
    as_default(bus, monkeypatch)
    RateLimit("provider.main", tokens=1_000).reserve(tokens=300)
    limits = CircuitThresholds(1, timedelta(minutes=1), timedelta(minutes=1))
    bus.stores.circuits.request_permit("provider.main", limits)
    error = "Timeout: \x1b[31m no answer"
    bus.stores.circuits.set("provider.main", "open", probe_after=None, error=error, by="a worker")
    return node


def test_top_tells_of_each_agent_what_waits_runs_failed_and_is_paused(shop):
    shown = json.loads(shop.command("top", "--json", "--interval", "0.3"))
    lines = shop.command("top", "--once", "--interval", "0.1").splitlines()

    agents = {each["agent"]: each for each in shown["agents"]}
    sells, keeps = agents["shop"], agents["store"]
    assert (sells["state"], sells["workers"], sells["in_flight"]) == ("started", 1, 1)
    assert (sells["handled"], sells["failed"], sells["handled_per_s"]) == (1, 1, 0)
    assert (keeps["state"], keeps["depth"], keeps["handled"]) == ("paused", 3, 0)
    assert 0 < keeps["lag_s"] < 600
    assert shown["delayed"] == 1
    assert "due later: 1 deliveries and events" in lines
    assert shown["breakers"] == {"provider.main": "open"}
    assert shown["rate_limits"][0] | {"tokens": 300, "max_tokens": 1_000} == shown["rate_limits"][0]
    (row,) = (line for line in lines if line.startswith("store"))
    assert re.fullmatch(r"store +paused +1 +3 +0 +[\d.]+ s +0\.0 +0\.0 +0 +0 *", row), row
    (breaker,) = (line for line in lines if line.startswith("breaker "))
    assert breaker.startswith("breaker provider.main is open: Timeout:")
    assert "\x1b" not in breaker
    assert any(re.match(r"provider\.main +1 +300 of 1,000", line) for line in lines)


def test_a_screen_is_renewed_says_when_its_server_is_gone_and_ends_when_it_is_interrupted(node, tmp_path, eventually):
    node.environment["PETIOLE_BROKER_URL"] = embedded_broker.start_broker(tmp_path / "broker").url
    ours, theirs = pty.openpty()
    environment = node.environment | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-m", "petiole.workers.cli", "top", "--interval", "0.1"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=node.home)
    node.processes.append(process)
    os.close(theirs)
    screen = bytearray()

    def has_drawn(text, count=1):
        while select.select([ours], [], [], 0)[0]:
            screen.extend(os.read(ours, 65_536))
        return screen.count(text) >= count

    eventually(lambda: has_drawn(b"system stopped", 3), 60, lambda: screen.decode(errors="replace"))
    embedded_broker.stop_broker(tmp_path / "broker")
    eventually(lambda: has_drawn(b"no reply, these figures are old"), 60, lambda: screen.decode(errors="replace"))
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 0
    os.close(ours)


def test_without_counted_events_there_are_no_rates_and_the_screen_says_what_to_set(node):
    (line,) = (line for line in node.command("top", "--once", "--interval", "0.01").splitlines() if "PETIOLE" in line)

    assert line == "rates need counted events: set PETIOLE_METRICS=true for publishers and workers"


def test_a_rate_is_what_was_added_in_the_time_between_and_0_after_the_counts_were_lost():
    def reading(at, handled, failed):
        agents = (SimpleNamespace(agent="shop", handled=handled, failed=failed),)
        return SimpleNamespace(at=at, counts_events=True, agents=agents)

    grown = compute_rates(reading(12.0, 30, 4), reading(10.0, 10, 4))["shop"]
    lost = compute_rates(reading(12.0, 0, 0), reading(10.0, 10, 4))["shop"]

    assert (grown.handled_per_s, grown.failed_per_s) == (10.0, 0.0)
    assert (lost.handled_per_s, lost.failed_per_s) == (0.0, 0.0)
