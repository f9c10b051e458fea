"""`petiole doctor`: each misconfiguration is set up on a real system and found; a healthy system has no findings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from click.testing import CliRunner
from redis import Redis

from petiole.events.registry import registry
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from petiole.tasks.operations import worker_report
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.tasks.stores.cluster_lifecycle import Cluster
from petiole.workers.cli import doctor, petiole
from petiole.workers.cli.doctor.checks import find_problems
from petiole.workers.cli.doctor.facts import ProcessReport, ServerFacts, SystemFacts
from petiole.workers.process import embedded_broker
from tests.support.apps import a_bus
from tests.support.polling import wait_until
from tests.support.processes import ROOT, Node, free_ports, holding_still

SHOP = r"""
from petiole.events import Event, registry
from petiole.tasks import Agent

shop = Agent("shop")
registry.declare("custom.sold", {"number": int})

@shop.on("input.*")
def sell(event: Event) -> None:
    pass
"""


@dataclass
class System:
    """A healthy system: a broker, a worker with one agent, and the bus of the command."""

    url: str
    node: Node
    bus: EventBus
    monkeypatch: pytest.MonkeyPatch

    @property
    def server(self) -> Redis:
        return self.bus.redis

    def codes(self) -> list[str]:
        """Run the command; returns the codes of its findings, and checks exit code and remedies."""
        self.monkeypatch.setattr(doctor, "connected_app", lambda: self.bus)
        shown = CliRunner().invoke(petiole, ["doctor", "--json"])
        findings = json.loads(shown.stdout)
        assert shown.exit_code == (1 if findings else 0), shown.output
        assert all(finding["problem"] and finding["remedy"] for finding in findings)
        return sorted(finding["code"] for finding in findings)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[tuple[str, Node]]:
    folder = tmp_path_factory.mktemp("shop")
    url = embedded_broker.start_broker(folder / "broker").url
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    own = {"PETIOLE_BROKER_URL": url, "PETIOLE_AGENTS": "shop", "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    node = Node(inherited | own | {"PYTHONUNBUFFERED": "1"}, folder, [])
    node.module("shop", SHOP)
    node.worker("shop")
    yield url, node
    for process in node.processes:
        process.kill()
        process.wait(timeout=10)
    embedded_broker.stop_broker(folder / "broker")


@pytest.fixture
def system(shop, monkeypatch) -> System:
    url, node = shop
    for name in [name for name in os.environ if name.startswith("PETIOLE_")]:
        monkeypatch.delenv(name)
    system = System(url, node, a_bus(url), monkeypatch)
    wait_until(lambda: system.bus.stores.cluster_membership.read().state == "started", 20)
    return system


Misconfigure = Callable[[System], AbstractContextManager[object]]


def server_setting(name: str, value: str) -> Misconfigure:
    @contextmanager
    def misconfigure(system: System) -> Iterator[None]:
        before: Any = system.server.config_get(name)[name]
        system.server.config_set(name, value)
        yield
        system.server.config_set(name, before)

    return misconfigure


def setting(**values: Any) -> Misconfigure:
    """Set settings of the process in which the command runs."""

    @contextmanager
    def misconfigure(system: System) -> Iterator[None]:
        system.bus = a_bus(system.url, **values)
        yield

    return misconfigure


def subscription(agent: str, function: str, pattern: str = "input.*") -> Misconfigure:
    """Leave a subscription in the directory, as a worker does that ran once."""

    @contextmanager
    def misconfigure(system: System) -> Iterator[None]:
        left = Subscription(agent=agent, function=function, patterns=(pattern,))
        system.bus.stores.directory.register([left])
        yield
        system.bus.stores.directory.unregister(left.name)

    return misconfigure


@contextmanager
def nearly_full_memory(system: System) -> Iterator[None]:
    limit = int(system.server.info("memory")["used_memory"] * 1.1)
    with server_setting("maxmemory", str(limit))(system):
        yield


@contextmanager
def a_wrong_clock(_: System) -> Iterator[None]:
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=1)):
        yield


@contextmanager
def two_beats(system: System) -> Iterator[None]:
    environment = system.node.environment
    environment["PETIOLE_TICK_INTERVAL_S"] = "0.2"
    beats = [
        system.node.start("celery", "-A", "workers", "beat", "-s", f"schedule-{number}", "--pidfile=")
        for number in (1, 2)
    ]
    del environment["PETIOLE_TICK_INTERVAL_S"]
    wait_until(lambda: sum(client["name"].startswith("beat:") for client in system.server.client_list()) >= 2, 30)
    yield
    for beat in beats:
        beat.kill()
        beat.wait(10)
    wait_until(lambda: not any(client["name"].startswith("beat:") for client in system.server.client_list()), 10)


@contextmanager
def a_second_worker(system: System, *, is_still: bool = False, **environment: str) -> Iterator[None]:
    system.node.environment.update(environment)
    worker = system.node.worker(f"second-{len(system.node.processes)}")
    for name in environment:
        del system.node.environment[name]
    membership = system.bus.stores.cluster_membership
    wait_until(lambda: len(membership.read().workers) == 2, 20)
    if is_still:
        with holding_still(worker.pid):
            yield
    else:
        yield
    worker.terminate()
    worker.wait(20)
    wait_until(lambda: len(membership.read().workers) == 1, 20)


def a_worker_that_hangs(system: System) -> AbstractContextManager[None]:
    return a_second_worker(system, is_still=True)


def a_worker_with_other_settings(system: System) -> AbstractContextManager[None]:
    return a_second_worker(system, PETIOLE_MAX_HOPS="8")


@contextmanager
def a_paused_agent(system: System) -> Iterator[None]:
    system.bus.stores.cluster_membership.set_override("shop", "paused")
    yield
    system.bus.stores.cluster_membership.set_override("shop", None)


@contextmanager
def a_queue_without_a_subscription(system: System) -> Iterator[None]:
    system.server.lpush("petiole:queues:gone:6", "1/1-1\ngone.handle\n\n\n")
    yield
    system.server.delete("petiole:queues:gone:6")


@contextmanager
def another_version(system: System) -> Iterator[None]:
    here = dict(worker_report.package_versions())
    system.monkeypatch.setattr(worker_report, "package_versions", lambda: here | {"petiole": "0.0.1"})
    yield


@contextmanager
def a_breaker_opened_by_hand(system: System) -> Iterator[None]:
    circuits = system.bus.stores.circuits
    circuits.request_permit("a-model", CircuitThresholds(3, timedelta(seconds=30), timedelta(seconds=30)))
    circuits.set("a-model", "open", probe_after=None, error="maintenance", by="ada")
    yield
    circuits.set("a-model", "closed", probe_after=None, error="", by="ada")


@contextmanager
def another_schema_in_this_process(system: System) -> Iterator[None]:
    # The worker of the module `shop` declares this type, too.
    registry.declare("custom.sold", {"number": str})
    yield
    with registry._registering:
        registry._types = {topic: each for topic, each in registry._types.items() if topic != "custom.sold"}


@contextmanager
def a_misspelled_setting(system: System) -> Iterator[None]:
    system.monkeypatch.setenv("PETIOLE_MAX_HOP", "8")
    yield


@contextmanager
def no_server(system: System) -> Iterator[None]:
    system.bus = a_bus(f"redis://127.0.0.1:{free_ports(1)[0]}/0")
    yield


MISCONFIGURATIONS: dict[str, tuple[Misconfigure, list[str]]] = {
    "a server that evicts keys": (server_setting("maxmemory-policy", "allkeys-lru"), ["eviction"]),
    "a server without persistence": (server_setting("appendonly", "no"), ["persistence"]),
    "a server that leaves writing to its host": (server_setting("appendfsync", "no"), ["fsync"]),
    "a server whose memory is nearly full": (nearly_full_memory, ["memory"]),
    "a server that cannot be reached": (no_server, ["unreachable"]),
    "the stock transport": (setting(transport="kombu"), ["transport"]),
    "a clock that is wrong": (a_wrong_clock, ["clock"]),
    "two beats": (two_beats, ["two_beats"]),
    "no beat": (setting(tick_interval_s=0.1, metrics_interval_s=0), ["no_beat"]),
    "no worker": (setting(key_prefix="elsewhere"), ["no_worker"]),
    "a worker that hangs": (a_worker_that_hangs, ["silent_worker"]),
    "workers with different settings": (a_worker_with_other_settings, ["settings"]),
    "processes of different versions": (another_version, ["versions"]),
    "an agent that an operator paused": (a_paused_agent, ["agent_paused"]),
    "a queue without a subscription": (a_queue_without_a_subscription, ["orphan_queue"]),
    "a subscription without a worker": (subscription("billing", "bill"), ["unserved"]),
    "a handler that was renamed": (subscription("shop", "sel"), ["handler"]),
    "a pattern with a typing error": (subscription("shop", "sel", "inptu.message.*"), ["handler", "pattern"]),
    "processes with different schemas of a type": (another_schema_in_this_process, ["schemas"]),
    "a breaker opened by hand": (a_breaker_opened_by_hand, ["breaker"]),
    "a misspelled setting": (a_misspelled_setting, ["unknown_setting"]),
}


@pytest.mark.parametrize("name", MISCONFIGURATIONS)
def test_a_misconfiguration_is_found_alone_and_gone_once_it_is_corrected(system, name):
    misconfigure, expected = MISCONFIGURATIONS[name]
    healthy = system.bus

    with misconfigure(system):
        found = system.codes()

    assert found == expected
    system.bus = healthy
    system.monkeypatch.undo()
    assert system.codes() == []


def test_the_command_prints_what_to_do_on_lines_that_do_not_wrap(system):
    with server_setting("maxmemory-policy", "allkeys-lru")(system):
        shown = system.node.start("petiole.workers.cli", "doctor")
        assert shown.wait(60) == 1

    printed = (system.node.home / f"{len(system.node.processes) - 1}.log").read_text().splitlines()
    assert printed[0].startswith("eviction: the broker evicts keys")
    assert printed[1].strip() == "set maxmemory-policy noeviction at the server"
    assert printed[-1] == "1 findings"


def test_a_replica_is_found_before_anything_is_asked_of_it(tmp_path, monkeypatch):
    url = embedded_broker.start_broker(tmp_path).url
    bus = a_bus(url)
    bus.redis.replicaof("127.0.0.1", str(free_ports(1)[0]))
    monkeypatch.setattr(doctor, "connected_app", lambda: bus)

    shown = CliRunner().invoke(petiole, ["doctor", "--json"])

    embedded_broker.stop_broker(tmp_path)
    assert [each["code"] for each in json.loads(shown.stdout)] == ["replica"], shown.stdout


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PETIOLE_TICK_INTERVAL_S", "abc"),
        ("PETIOLE_METRICS_NAMESPACE", "my-app"),
        ("PETIOLE_REDACT", "x:y"),
        ("PETIOLE_POLICY", "/nonexistent"),
        ("PETIOLE_SIGNING_KEYS", "/nonexistent"),
    ],
)
def test_a_setting_with_which_nothing_can_be_published_is_named(node, variable, value):
    node.environment[variable] = value

    shown = node.start("petiole.workers.cli", "doctor")

    assert shown.wait(60) == 1
    assert node.logs().startswith("configuration: ")
    assert variable in node.logs()


def test_a_command_names_the_setting_that_cannot_be_used_and_not_the_broker(node):
    node.environment["PETIOLE_TICK_INTERVAL_S"] = "abc"

    shown = node.start("petiole.workers.cli", "agents")

    assert shown.wait(60) == 1
    assert "PETIOLE_TICK_INTERVAL_S is 'abc'" in node.logs()
    assert "broker" not in node.logs()


def a_healthy_system() -> SystemFacts:
    report = worker_report.build_report(a_bus("redis://127.0.0.1:1/0"))
    here = ProcessReport("here", report["versions"], report["settings"], 0.0)  # type: ignore[arg-type]
    server = ServerFacts("the broker", {"maxmemory_policy": "noeviction", "aof_enabled": 1}, "everysec")
    return SystemFacts((server,), "redis", here, workers=(replace(here, name="shop@host"),))


@pytest.mark.parametrize("status", ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"])
def test_a_server_that_could_not_write_to_its_disk_is_found(status):
    facts = a_healthy_system()
    failing = replace(facts.servers[0], info={**facts.servers[0].info, status: "err"})

    assert find_problems(facts) == []
    assert [each.code for each in find_problems(replace(facts, servers=(failing,)))] == ["disk"]


def test_a_worker_whose_clock_is_wrong_and_a_system_that_was_shut_down_are_found():
    facts = a_healthy_system()
    behind = replace(facts.workers[0], clock_ahead_s=-30.0)

    found = find_problems(replace(facts, workers=(behind,), cluster=Cluster(is_closed=True)))

    assert [each.code for each in found] == ["clock", "closed"]
    assert "the clock of shop@host is 30.0 s behind" in found[0].problem
