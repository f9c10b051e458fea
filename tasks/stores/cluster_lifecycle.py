"""Lifecycles of the system and its agents, as tables: from a state and a situation follow transitions.

- The system runs while a worker does. An agent runs while a worker serves it; it is started once a running worker
  consumes its events.
- A worker belongs to the lifecycle in which it joined. A worker that joins while the system stops waits for the next.
- A closed system stops in any case, and stays closed until its next lifecycle.

Pure: cluster_membership.py reads a Cluster, asks this module for the next one, and stores that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["starting", "running", "stopping", "stopped"]
"""Phase of a worker; a stopped one is removed."""

ServingState: TypeAlias = Literal["paused", "consuming", "draining", "stopped"]
"""How a worker serves an agent. draining: it finishes running deliveries. stopped: by an operator, all finished."""

AgentOverride: TypeAlias = Literal["paused", "stopped"]
"""What an operator set for an agent."""

_BEGINNING = (
    "created", "features.registered", "providers.registered", "world.registered",
    "builtin_agents.registered", "user_agents.registered", "starting",
)  # fmt: skip

SYSTEM_TRANSITIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "stopped": {"occupied": _BEGINNING},
    "starting": {"ending": ("stopping",), "running": ("started",)},
    "started": {"ending": ("stopping",)},
    "stopping": {"empty": ("stopped",)},
}
"""State -> situation -> transitions; the last transition names the new state. Other situations change nothing."""

AGENT_TRANSITIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "stopped": {"serving": ("created", "starting"), "consuming": ("created", "starting")},
    "starting": {"consuming": ("started",), "draining": ("stopping",), "unserved": ("stopping",), "lost": ("stopped",)},
    "started": {"draining": ("stopping",), "unserved": ("stopping",), "lost": ("stopped",)},
    "stopping": dict.fromkeys(("serving", "consuming", "unserved", "lost"), ("stopped",)),
}
"""As SYSTEM_TRANSITIONS. lost: nobody serves the agent, and its last worker was lost."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as of its last report, and the system's lifecycle that it belongs to; empty while it waits for one."""

    node: str
    phase: Phase
    agents: Mapping[str, ServingState]
    lifecycle_id: str = ""


@dataclass(frozen=True, slots=True)
class AgentLifecycle:
    """An agent that is starting, started or stopping."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A lifecycle event to publish. Times are seconds since 1970 by the server's clock, as text."""

    lifecycle_id: str
    event_type: str
    at: str
    agent: str = ""
    worker: str = ""
    reason: str = ""
    previous_at: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers, the lifecycles, the agents' overrides, and the transitions not yet published, oldest first."""

    state: str = "stopped"
    lifecycle_id: str = ""
    is_closed: bool = False
    last_event_at: str = ""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    agents: Mapping[str, AgentLifecycle] = field(default_factory=dict)
    overrides: Mapping[str, AgentOverride] = field(default_factory=dict)
    unpublished: tuple[Transition, ...] = ()

    @property
    def is_ending(self) -> bool:
        """Whether the system is shutting down."""
        return self.is_closed and self.state == "stopping"

    @property
    def started_at(self) -> float:
        """The start of the system's lifecycle in s since 1970; 0 if it never started."""
        return float(self.lifecycle_id or 0)

    def is_member(self, worker: str) -> bool:
        """Return whether a worker belongs to the current lifecycle."""
        return worker in self.workers and self.workers[worker].lifecycle_id == self.lifecycle_id


@dataclass(frozen=True, slots=True)
class Cause:
    """When and through whom transitions come about, and the agents whose worker was lost, with its node."""

    at: str
    by: str
    lost: Mapping[str, str] = field(default_factory=dict)


def close_system(cluster: Cluster, cause: Cause) -> Cluster:
    """Stop the system, if it runs, and reject publishers."""
    return cluster if cluster.state == "stopped" else _advance(replace(cluster, is_closed=True), cause)


def apply_report(cluster: Cluster, worker_id: str, worker: Worker, at: str, silent: Collection[str] = ()) -> Cluster:
    """Apply a worker's report of its phase and its agents, and remove workers that were silent for too long."""
    lost = {agent: cluster.workers[id_].node for id_ in sorted(silent) for agent in cluster.workers[id_].agents}
    cluster = replace(cluster, workers={id_: each for id_, each in cluster.workers.items() if id_ not in silent})
    cause, known = Cause(at, worker.node, lost), cluster.workers.get(worker_id)
    if known is None:
        # Lifecycles that ended before a new worker joined end before the worker counts.
        cluster = _advance(cluster, cause)
    workers = {**cluster.workers, worker_id: replace(worker, lifecycle_id=known.lifecycle_id if known else "")}
    if worker.phase == "stopped":
        del workers[worker_id]
    return _advance(replace(cluster, workers=workers), cause)


def _advance(cluster: Cluster, cause: Cause) -> Cluster:
    """Make all transitions that are due. The end of a lifecycle may be followed by the start of the next."""
    before = None
    while cluster != before:
        before = cluster
        cluster = _advance_system(_adopt_workers(cluster), cause, _demand)
        for agent in sorted(
            {*cluster.agents, *(name for worker in cluster.workers.values() for name in worker.agents)}
        ):
            cluster = _advance_agent(cluster, agent, cause)
        # After the agents: the system is started or stopped when they are.
        cluster = _advance_system(cluster, cause, _progress)
    return cluster


def _adopt_workers(cluster: Cluster) -> Cluster:
    """Let the workers that wait for a lifecycle join the current one, unless it is stopping."""
    if cluster.state not in {"starting", "started"}:
        return cluster
    workers = {
        id_: worker if worker.phase == "stopping" else replace(worker, lifecycle_id=cluster.lifecycle_id)
        for id_, worker in cluster.workers.items()
    }
    return replace(cluster, workers=workers)


def _demand(cluster: Cluster) -> str:
    is_occupied = any(worker.phase != "stopping" for worker in cluster.workers.values())
    return "occupied" if is_occupied and (cluster.state == "stopped" or not cluster.is_closed) else "ending"


def _progress(cluster: Cluster) -> str:
    phases = {worker.phase for worker in _members(cluster)}
    return "running" if "running" in phases else "joining" if phases else "empty"


def _advance_system(cluster: Cluster, cause: Cause, find_situation: Callable[[Cluster], str]) -> Cluster:
    steps = SYSTEM_TRANSITIONS[cluster.state].get(find_situation(cluster), ())
    if "created" in steps:
        cluster = replace(cluster, lifecycle_id=cause.at, is_closed=False)
    for step in steps:
        transition = Transition(cluster.lifecycle_id, f"system.{step}", cause.at, previous_at=cluster.last_event_at)
        cluster = replace(cluster, last_event_at=cause.at, unpublished=(*cluster.unpublished, transition))
    return replace(cluster, state=steps[-1]) if steps else cluster


def _advance_agent(cluster: Cluster, agent: str, cause: Cause) -> Cluster:
    lifecycle = cluster.agents.get(agent, AgentLifecycle(cause.at, "stopped"))
    transitions: list[Transition] = []
    while steps := AGENT_TRANSITIONS[lifecycle.state].get(_situation(cluster, agent, lifecycle.state, cause), ()):
        lifecycle = AgentLifecycle(cause.at if "created" in steps else lifecycle.id, steps[-1])
        transitions += [_agent_transition(lifecycle.id, step, agent, cause) for step in steps]
    agents = {**cluster.agents, agent: lifecycle}
    if lifecycle.state == "stopped":
        del agents[agent]
    return replace(cluster, agents=agents, unpublished=(*cluster.unpublished, *transitions))


def _agent_transition(lifecycle_id: str, step: str, agent: str, cause: Cause) -> Transition:
    lost_node = cause.lost.get(agent) if step == "stopped" else None
    reason = "lost" if lost_node else "stopped" if step == "stopped" else ""
    return Transition(lifecycle_id, f"agent.{step}", cause.at, agent, lost_node or cause.by, reason)


def _situation(cluster: Cluster, agent: str, state: str, cause: Cause) -> str:
    """Return how an agent is served by all workers of the lifecycle: the first of these that holds for one of them."""
    found = {_served_by(cluster, worker, agent) for worker in _members(cluster) if agent in worker.agents}
    # A stopping agent drains before it starts again.
    order = ("draining", "consuming", "serving") if state == "stopping" else ("consuming", "serving", "draining")
    return next((each for each in order if each in found), "lost" if agent in cause.lost else "unserved")


def _served_by(cluster: Cluster, worker: Worker, agent: str) -> str:
    serving = worker.agents[agent]
    if serving == "draining" or worker.phase == "stopping":
        return "draining"
    if serving == "stopped":
        return "unserved"
    if cluster.state == "stopping":
        return "draining"
    return "consuming" if serving == "consuming" and worker.phase == "running" else "serving"


def _members(cluster: Cluster) -> list[Worker]:
    return [worker for worker in cluster.workers.values() if worker.lifecycle_id == cluster.lifecycle_id]
