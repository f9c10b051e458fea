"""Lifecycles of system and agents: which transitions follow, whichever workers join, leave and are lost."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from petiole.tasks.stores.cluster_lifecycle import (
    AGENT_TRANSITIONS,
    SYSTEM_TRANSITIONS,
    Cause,
    Cluster,
    Phase,
    ServingState,
    Worker,
    apply_report,
    close_system,
)

ORDER = ["created", "starting", "started", "stopping", "stopped"]
BEGINNING = [
    "system.created",
    *(f"system.{part}.registered" for part in ["features", "providers", "world", "builtin_agents", "user_agents"]),
    "system.starting",
]
FOLLOWING: dict[Phase, list[Phase]] = {
    "stopped": ["starting"],
    "starting": ["running", "stopped"],
    "running": ["running", "stopping"],
    "stopping": ["stopped"],
}


class Reports:
    """A cluster, and what its workers report, one report a second."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.now = 1_000

    def report(self, worker: str, phase: Phase, *, silent: str = "", **agents: ServingState) -> None:
        self.now += 1
        known = [id_ for id_ in silent if id_ in self.cluster.workers]
        self.cluster = apply_report(self.cluster, worker, Worker(f"{worker}@h", phase, agents), str(self.now), known)

    def close(self) -> None:
        self.now += 1
        self.cluster = close_system(self.cluster, Cause(str(self.now), "supervisor"))

    def transitions(self, agent: str | None = None) -> list[str]:
        """List the types of all transitions, or of one agent's ('': the system's)."""
        return [each.event_type for each in self.cluster.unpublished if agent in {None, each.agent}]

    def steps(self, agent: str) -> list[str]:
        return [event_type.removeprefix("agent.") for event_type in self.transitions(agent)]

    def stops(self) -> list[tuple[str, str, str]]:
        return [
            (each.agent, each.worker, each.reason)
            for each in self.cluster.unpublished
            if each.event_type == "agent.stopped"
        ]


@pytest.fixture
def reports() -> Reports:
    return Reports()


def test_each_row_of_the_tables_ends_in_a_state():
    assert {steps[-1] for row in SYSTEM_TRANSITIONS.values() for steps in row.values()} == set(SYSTEM_TRANSITIONS)
    assert {steps[-1] for row in AGENT_TRANSITIONS.values() for steps in row.values()} == set(AGENT_TRANSITIONS)


def test_one_worker_from_start_to_end_makes_every_transition_once_and_in_order(reports):
    reports.report("w", "starting", memory="paused")
    for _ in range(3):
        reports.report("w", "running", memory="consuming")
    reports.report("w", "stopping", memory="draining")
    reports.report("w", "stopping", memory="draining")
    assert reports.transitions()[-1] == "agent.stopping"
    reports.report("w", "stopped")

    assert reports.transitions() == [
        *BEGINNING,
        "agent.created",
        "agent.starting",
        "agent.started",
        "system.started",
        "system.stopping",
        "agent.stopping",
        "agent.stopped",
        "system.stopped",
    ]
    assert reports.stops() == [("memory", "w@h", "stopped")]


def test_each_event_of_the_system_names_the_time_of_the_one_before(reports):
    reports.report("w", "running")
    reports.report("w", "stopped")

    times = [(each.previous_at, each.at) for each in reports.cluster.unpublished]
    assert times[0] == ("", "1001")
    assert all(previous_at == before[1] for before, (previous_at, _) in pairwise(times))


def test_an_agent_is_not_started_before_a_worker_takes_its_events(reports):
    reports.report("w", "starting", memory="consuming")
    reports.report("w", "running", memory="paused")

    assert reports.steps("memory") == ["created", "starting"]


def test_two_workers_of_one_agent_start_and_stop_it_once(reports):
    for worker in "ab":
        reports.report(worker, "starting", memory="paused")
        reports.report(worker, "running", memory="consuming")
    reports.report("a", "stopped")
    assert reports.steps("memory") == ORDER[:3]

    reports.report("b", "stopped")

    assert reports.steps("memory") == ORDER


def test_the_agents_of_a_lost_worker_stop_without_stopping_first(reports):
    reports.report("a", "running", memory="consuming")
    reports.report("b", "running", tools="consuming")

    reports.report("b", "running", tools="consuming", silent="a")

    assert reports.stops() == [("memory", "a@h", "lost")]
    assert reports.steps("memory") == ["created", "starting", "started", "stopped"]
    assert "system.stopping" not in reports.transitions()


def test_the_first_worker_after_a_crash_of_all_others_stops_the_old_system_and_starts_a_new_one(reports):
    reports.report("a", "running", memory="consuming")

    reports.report("b", "running", memory="consuming", silent="a")

    assert reports.steps("memory") == ["created", "starting", "started", "stopped", "created", "starting", "started"]
    assert reports.stops() == [("memory", "a@h", "lost")]
    assert reports.transitions("") == [
        *BEGINNING, "system.started", "system.stopping", "system.stopped", *BEGINNING, "system.started"
    ]  # fmt: skip


def test_a_system_that_shuts_down_stops_once_and_refuses_new_workers(reports):
    reports.report("a", "running", memory="consuming")

    reports.close()
    reports.close()
    reports.report("b", "starting", memory="paused")
    reports.report("a", "running", memory="consuming")

    assert reports.cluster.is_ending
    assert [reports.cluster.is_member(worker) for worker in "ab"] == [True, False]
    reports.report("b", "stopped")
    reports.report("a", "stopped")
    assert reports.transitions()[-4:] == ["system.stopping", "agent.stopping", "agent.stopped", "system.stopped"]
    assert reports.cluster.is_closed


def test_the_next_worker_opens_a_system_that_was_shut_down(reports):
    reports.report("a", "running")
    reports.close()
    reports.report("a", "stopped")

    reports.report("b", "running")

    assert (reports.cluster.is_closed, reports.cluster.state) == (False, "started")


def test_shutting_down_without_workers_does_nothing(reports):
    reports.close()

    assert reports.cluster == Cluster()


def test_a_worker_that_joins_while_the_last_one_leaves_starts_the_agent_again(reports):
    reports.report("a", "running", memory="consuming")
    reports.report("a", "stopping", memory="draining")
    reports.report("b", "running", memory="consuming")

    reports.report("a", "stopped")

    assert reports.steps("memory") == [*ORDER, *ORDER[:3]]
    assert reports.transitions("").count("system.stopped") == 1
    assert reports.transitions("")[-1] == "system.started"


@pytest.mark.parametrize("seed", range(20))
def test_transitions_stay_in_order_for_random_joins_leaves_and_crashes(reports, seed):
    chance = random.Random(seed)
    phases: defaultdict[str, Phase] = defaultdict(lambda: "stopped")
    servings: list[ServingState] = ["paused", "consuming", "draining"]

    for _ in range(80):
        worker = chance.choice("abc")
        phases[worker] = chance.choice(FOLLOWING[phases[worker]])
        silent = chance.choice("abc".replace(worker, "")) if chance.random() < 0.1 else ""
        reports.report(worker, phases[worker], silent=silent, memory=chance.choice(servings), tools="consuming")

    for subject in ("", "memory", "tools"):
        made = [each for each in reports.cluster.unpublished if each.agent == subject]
        main = [step for each in made if (step := each.event_type.split(".", 1)[1]) in ORDER]
        for before, after in pairwise(main):
            follows = ORDER.index(after) - ORDER.index(before)
            is_lost = after == "stopped" and before in {"starting", "started"}
            is_early_end = before == "starting" and after == "stopping"
            assert follows == 1 or (before, after) == ("stopped", "created") or is_lost or is_early_end, main
        ids = [(each.lifecycle_id, each.event_type) for each in made]
        assert len(ids) == len(set(ids))
