"""Cluster membership: what is stored of workers, and who may declare others lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import fakeredis
import pytest

from petiole.tasks.stores.cluster_lifecycle import Cluster, Phase, ServingState, Worker
from petiole.tasks.stores.cluster_membership import ClusterMembership
from petiole.tasks.stores.keys import Keys

LIMIT_S = 5.0


class Site:
    """A server, and the processes that use it. Heartbeats expire when the test says so."""

    def __init__(self) -> None:
        self.client: Any = fakeredis.FakeRedis(decode_responses=True)
        self.keys = Keys("p")
        self.now = 0.0
        self.operator = self.process()
        self.processes: dict[str, ClusterMembership] = {}

    def process(self) -> ClusterMembership:
        return ClusterMembership(self.client, self.keys, timedelta(seconds=LIMIT_S), lambda: self.now)

    def heartbeat(self, worker: str, phase: Phase = "running", **agents: ServingState) -> Cluster:
        process = self.processes.setdefault(worker, self.process())
        return process.send_heartbeat(worker, Worker(f"{worker}@h", phase, agents))

    def falls_silent(self, worker: str) -> None:
        assert self.client.delete(self.keys.heartbeat(worker))

    def stays_in_touch(self, worker: str, **agents: ServingState) -> None:
        for _ in range(int(LIMIT_S) + 1):
            self.now += 1
            self.heartbeat(worker, "running", **agents)

    def stopped(self) -> list[tuple[str, str]]:
        transitions = self.operator.read().unpublished
        return [(each.agent, each.reason) for each in transitions if each.event_type == "agent.stopped"]


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_heartbeat_that_says_nothing_new_changes_nothing(site):
    site.heartbeat("a", memory="consuming")
    before = site.client.get(site.keys.cluster_version)

    site.heartbeat("a", memory="consuming")

    assert site.client.get(site.keys.cluster_version) == before


def test_what_a_worker_reports_is_read_by_others(site):
    site.heartbeat("a", memory="consuming")
    site.heartbeat("b", memory="paused")

    workers = site.operator.read().workers
    assert {id_: (each.node, dict(each.agents)) for id_, each in workers.items()} == {
        "a": ("a@h", {"memory": "consuming"}),
        "b": ("b@h", {"memory": "paused"}),
    }


def test_a_heartbeat_brings_what_others_have_changed(site):
    site.heartbeat("a", memory="consuming")

    site.operator.set_override("memory", "paused")
    assert site.heartbeat("a", memory="consuming").overrides == {"memory": "paused"}

    site.operator.set_override("memory", None)
    assert site.heartbeat("a", memory="consuming").overrides == {}


def test_a_worker_that_is_in_touch_declares_a_silent_one_lost(site):
    site.heartbeat("a", memory="consuming")
    site.heartbeat("b", tools="consuming")
    site.stays_in_touch("b", tools="consuming")

    site.falls_silent("a")
    site.heartbeat("b", tools="consuming")

    assert site.stopped() == [("memory", "lost")]


def test_a_worker_that_missed_its_own_heartbeats_declares_no_other_lost_until_one_timeout_has_passed(site):
    site.heartbeat("a", memory="consuming")
    site.heartbeat("b", tools="consuming")
    site.stays_in_touch("b", tools="consuming")

    site.falls_silent("a")
    site.falls_silent("b")
    site.heartbeat("b", tools="consuming")
    assert site.stopped() == []

    site.stays_in_touch("b", tools="consuming")
    assert site.stopped() == [("memory", "lost")]


def test_a_worker_that_the_server_answered_late_declares_no_other_lost(site):
    site.heartbeat("a", memory="consuming")
    site.heartbeat("b", tools="consuming")
    site.stays_in_touch("b", tools="consuming")

    site.falls_silent("a")
    site.now += LIMIT_S
    site.heartbeat("b", tools="consuming")

    assert site.stopped() == []


def test_a_new_worker_declares_silent_ones_lost_at_once(site):
    site.heartbeat("a", memory="consuming")
    site.falls_silent("a")

    site.heartbeat("b", tools="consuming")

    assert site.stopped() == [("memory", "lost")]


def test_a_new_worker_declares_no_other_lost_if_the_server_paused_while_it_joined(site):
    site.heartbeat("a", memory="consuming")
    site.falls_silent("a")
    late = iter([0.0, LIMIT_S])

    joining = ClusterMembership(site.client, site.keys, timedelta(seconds=LIMIT_S), lambda: next(late))
    joining.send_heartbeat("b", Worker("b@h", "running", {"tools": "consuming"}))

    assert site.stopped() == []


def test_a_worker_that_was_declared_lost_joins_again_with_its_next_heartbeat(site):
    site.heartbeat("a", memory="consuming")
    site.falls_silent("a")
    site.heartbeat("b", tools="consuming")

    site.heartbeat("a", memory="consuming")

    assert set(site.operator.read().workers) == {"a", "b"}
    assert site.operator.read().agents["memory"].state == "started"


def test_changes_at_the_same_time_are_all_kept(site):
    agents = [f"agent-{number}" for number in range(40)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda agent: site.process().set_override(agent, "paused"), agents))

    assert set(site.operator.read().overrides) == set(agents)


def test_published_transitions_are_deleted_and_later_ones_stay(site):
    published = site.heartbeat("a").unpublished
    site.heartbeat("a", memory="consuming")

    site.operator.mark_published(published)

    assert [each.event_type for each in site.operator.read().unpublished] == [
        "agent.created",
        "agent.starting",
        "agent.started",
    ]


def test_publishers_notice_that_the_system_closes_and_that_it_opens(site):
    versions = []
    for act in (
        lambda: site.heartbeat("a"),
        lambda: site.operator.close("supervisor"),
        lambda: site.operator.close("supervisor"),
        lambda: site.heartbeat("a", "stopped"),
        lambda: site.heartbeat("b"),
    ):
        act()
        versions.append((site.client.get(site.keys.directory_version), site.operator.is_closed()))

    assert versions == [(None, False), ("1", True), ("1", True), ("1", True), ("2", False)]


def test_a_system_is_active_while_a_worker_is_heard_of(site):
    assert not site.operator.has_active_workers()

    site.heartbeat("a")
    assert site.operator.has_active_workers()

    site.falls_silent("a")
    assert not site.operator.has_active_workers()


def test_a_worker_that_stops_leaves_nothing_behind(site):
    site.heartbeat("a", memory="consuming")
    site.heartbeat("a", "stopped")

    assert (site.operator.read().workers, site.client.exists(site.keys.heartbeat("a"))) == ({}, 0)
