"""Lifecycle transitions of system and agents: in order and each once, whichever workers join, leave and crash."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from itertools import pairwise

import fakeredis
import pytest

from petiole.tasks.stores.cluster_membership import ClusterMembership, Phase
from petiole.tasks.stores.keys import Keys

ORDER = ["created", "starting", "started", "stopping", "stopped"]
LIMIT_S = 5.0
FOLLOWING: dict[Phase, list[Phase]] = {
    "stopped": ["starting"],
    "starting": ["running", "stopped"],
    "running": ["running", "stopping"],
    "stopping": ["stopped"],
}


class World:
    """A store in which the test sets the times of heartbeats."""

    def __init__(self) -> None:
        self.client = fakeredis.FakeRedis(decode_responses=True)
        self.keys = Keys("p")
        self.store = ClusterMembership(self.client, self.keys, timedelta(seconds=LIMIT_S))

    def told(self, prefix: str = "") -> list[str]:
        facts = [json.loads(each) for each in self.store.read_unpublished(1000)]
        return [
            f"{each.get('agent', '')}{each['event_type']}" for each in facts if each["event_type"].startswith(prefix)
        ]

    def facts(self, step: str) -> list[dict[str, str]]:
        return [each for each in map(json.loads, self.store.read_unpublished(1000)) if each["event_type"] == step]

    def falls_silent(self, worker: str, seconds: float = 60.0) -> None:
        self.client.zincrby(self.keys.workers, -seconds, worker)

    def is_steady(self, worker: str) -> None:
        facts = json.loads(str(self.client.hget(self.keys.worker_states, worker)))
        facts["since"] = "1.000000"
        self.client.hset(self.keys.worker_states, worker, json.dumps(facts))


@pytest.fixture
def world() -> World:
    return World()


def test_one_worker_from_start_to_end_emits_every_transition_once_and_in_order(world):
    store = world.store

    store.send_heartbeat("w", "w@h", "starting", {"memory": "paused"})
    for _ in range(3):
        store.send_heartbeat("w", "w@h", "running", {"memory": "consuming"})
    store.send_heartbeat("w", "w@h", "stopping", {"memory": "draining"})
    store.send_heartbeat("w", "w@h", "stopping", {"memory": "draining"})
    assert world.told()[-1] == "memoryagent.stopping"
    store.send_heartbeat("w", "w@h", "stopped", {})

    registered = ["features", "providers", "world", "builtin_agents", "user_agents"]
    assert world.told() == [
        "system.created",
        *(f"system.{each}.registered" for each in registered),
        "system.starting",
        "memoryagent.created",
        "memoryagent.starting",
        "memoryagent.started",
        "system.started",
        "system.stopping",
        "memoryagent.stopping",
        "memoryagent.stopped",
        "system.stopped",
    ]
    assert world.facts("agent.stopped")[0]["reason"] == "stopped"


def test_an_agent_is_not_started_before_a_worker_takes_its_events(world):
    world.store.send_heartbeat("w", "w@h", "starting", {"memory": "consuming"})
    world.store.send_heartbeat("w", "w@h", "running", {"memory": "paused"})

    assert "memoryagent.started" not in world.told()


def test_two_workers_of_one_agent_start_and_stop_it_once(world):
    for worker in ("a", "b"):
        world.store.send_heartbeat(worker, worker, "starting", {"memory": "paused"})
        world.store.send_heartbeat(worker, worker, "running", {"memory": "consuming"})
    world.store.send_heartbeat("a", "a", "stopped", {})
    assert world.told("agent") == ["memoryagent.created", "memoryagent.starting", "memoryagent.started"]

    world.store.send_heartbeat("b", "b", "stopped", {})

    assert world.told("agent")[3:] == ["memoryagent.stopping", "memoryagent.stopped"]


def test_a_worker_without_heartbeats_is_lost_and_its_agents_stop(world):
    for worker, agent in (("a", "memory"), ("b", "tools")):
        world.store.send_heartbeat(worker, worker, "running", {agent: "consuming"})
    world.falls_silent("a")
    world.is_steady("b")

    world.store.send_heartbeat("b", "b", "running", {"tools": "consuming"})

    (stopped,) = world.facts("agent.stopped")
    assert (stopped["agent"], stopped["reason"], stopped["worker"]) == ("memory", "lost", "a")
    assert "memoryagent.stopping" not in world.told()
    assert "system.stopping" not in world.told()


def test_a_worker_that_missed_its_own_heartbeats_declares_no_other_worker_lost(world):
    for worker, agent in (("a", "memory"), ("b", "tools")):
        world.store.send_heartbeat(worker, worker, "running", {agent: "consuming"})
        world.is_steady(worker)
    for worker in ("a", "b"):
        world.falls_silent(worker)

    world.store.send_heartbeat("b", "b", "running", {"tools": "consuming"})

    assert world.facts("agent.stopped") == []


def test_the_first_worker_after_a_crash_of_all_others_stops_the_old_system_and_starts_a_new_one(world):
    world.store.send_heartbeat("a", "a", "running", {"memory": "consuming"})
    world.falls_silent("a")

    world.store.send_heartbeat("b", "b", "running", {"memory": "consuming"})

    assert world.told("agent") == [
        *(f"memoryagent.{step}" for step in ["created", "starting", "started", "stopped"]),
        *(f"memoryagent.{step}" for step in ["created", "starting", "started"]),
    ]
    assert world.facts("agent.stopped")[0]["reason"] == "lost"
    assert world.told("system").count("system.stopped") == 1


def test_a_system_that_shuts_down_stops_once_and_refuses_new_workers(world):
    world.store.send_heartbeat("a", "a", "running", {"memory": "consuming"})

    first = world.store.close("supervisor")
    second = world.store.close("supervisor")
    late = world.store.send_heartbeat("b", "b", "starting", {"memory": "paused"})
    closing = world.store.send_heartbeat("a", "a", "running", {"memory": "consuming"})

    assert all(each.is_ending for each in (first, second, closing))
    assert not late.is_member
    assert closing.is_member
    world.store.send_heartbeat("b", "b", "stopped", {})
    world.store.send_heartbeat("a", "a", "stopped", {})
    assert world.told()[-4:] == ["system.stopping", "memoryagent.stopping", "memoryagent.stopped", "system.stopped"]
    assert world.store.is_closed()


def test_the_next_worker_reopens_a_system_that_was_shut_down(world):
    world.store.send_heartbeat("a", "a", "running", {})
    before = world.client.get(world.keys.directory_version)
    world.store.close("supervisor")
    world.store.send_heartbeat("a", "a", "stopped", {})
    closed = world.client.get(world.keys.directory_version)

    world.store.send_heartbeat("b", "b", "running", {})

    assert not world.store.is_closed()
    opened = world.client.get(world.keys.directory_version)
    assert len({before, closed, opened}) == 3, "publishers have to notice"


def test_shutting_down_without_workers_does_nothing(world):
    assert world.store.close("supervisor").is_ending is False
    assert world.told() == []


def test_a_worker_that_joins_while_the_last_one_leaves_starts_the_agent_again(world):
    world.store.send_heartbeat("a", "a", "running", {"memory": "consuming"})
    world.store.send_heartbeat("a", "a", "stopping", {"memory": "draining"})
    world.store.send_heartbeat("b", "b", "running", {"memory": "consuming"})

    world.store.send_heartbeat("a", "a", "stopped", {})

    told = world.told("agent")
    assert told == [f"memoryagent.{step}" for step in [*ORDER, *ORDER[:3]]]
    assert world.told("system").count("system.stopped") == 1
    assert world.told("system")[-1] == "system.started"


def test_a_system_without_agents_starts(world):
    world.store.send_heartbeat("a", "a", "running", {})

    assert world.told()[-1] == "system.started"
    assert world.store.send_heartbeat("a", "a", "running", {}).overrides == {}


@pytest.mark.parametrize("seed", range(6))
def test_transitions_stay_in_order_for_random_joins_leaves_and_crashes(world, seed):
    chance = random.Random(seed)
    phases: dict[str, Phase] = dict.fromkeys("abc", "stopped")

    for _ in range(80):
        worker = chance.choice("abc")
        phases[worker] = chance.choice(FOLLOWING[phases[worker]])
        how = chance.choice(["paused", "consuming", "draining"])
        world.store.send_heartbeat(worker, worker, phases[worker], {"memory": how, "tools": "consuming"})
        if chance.random() < 0.1:
            world.falls_silent(chance.choice("abc"))
        if chance.random() < 0.1:
            world.is_steady(worker) if phases[worker] != "stopped" else None

    facts = [json.loads(each) for each in world.store.read_unpublished(10_000)]
    for subject in ("", "memory", "tools"):
        steps = [each["event_type"].split(".", 1)[1] for each in facts if each.get("agent", "") == subject]
        main = [step for step in steps if step in ORDER]
        for before, after in pairwise(main):
            follows = ORDER.index(after) - ORDER.index(before)
            is_lost = after == "stopped" and before in {"starting", "started"}
            is_early_end = before == "starting" and after == "stopping"
            assert follows == 1 or (before, after) == ("stopped", "created") or is_lost or is_early_end, main
        ids = [(each["lifecycle_id"], each["event_type"]) for each in facts if each.get("agent", "") == subject]
        assert len(ids) == len(set(ids))
