"""Cluster membership: which workers are alive, lifecycles of the system and its agents, agents paused by an operator.

Promise: each lifecycle transition happens once and in order, over all workers (cluster_membership.lua). Transitions are
kept until they are published, so a crash loses none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

Phase: TypeAlias = Literal["starting", "running", "stopping", "stopped"]
"""Phase of a worker; a stopped one is removed."""

ServingState: TypeAlias = Literal["paused", "consuming", "draining", "stopped"]
"""How a worker serves an agent. draining: it finishes running deliveries. stopped: by an operator, all finished."""

AgentOverride: TypeAlias = Literal["paused", "stopped"]
"""What an operator set for an agent."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as of its last heartbeat."""

    id: str
    node: str
    phase: Phase
    agents: Mapping[str, ServingState]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Answer to a heartbeat: the system's state, whether the worker belongs to it, and the agents' overrides."""

    state: str
    is_closed: bool
    is_member: bool
    overrides: Mapping[str, AgentOverride]

    @property
    def is_ending(self) -> bool:
        """Whether the system is shutting down."""
        return self.is_closed and self.state == "stopping"


class ClusterMembership:
    """Workers, lifecycles and overrides."""

    def __init__(self, client: Redis, keys: Keys, limit: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._limit_s = limit.total_seconds()
        self._update = client.register_script(load_script("cluster_membership"))

    def send_heartbeat(self, worker: str, node: str, phase: Phase, agents: Mapping[str, ServingState]) -> ClusterState:
        """Report that a worker is alive and how it serves its agents. Safe to repeat."""
        return self._run_transitions(worker, node, phase, agents)

    def close(self, by: str) -> ClusterState:
        """Stop the system and reject publishers until it starts again; `by` names the cause. Safe to repeat."""
        return self._run_transitions("", by, "close", {})

    def is_closed(self) -> bool:
        """Return whether publishers are rejected."""
        return self._client.hget(self._keys.system, "closed") is not None

    def has_active_workers(self) -> bool:
        """Return whether the system is started and a worker was heard of within the heartbeat timeout."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hget(self._keys.system, "state")
            pipe.zrange(self._keys.workers, -1, -1, withscores=True)
            (seconds, microseconds), state, latest = pipe.execute()
        heard = float(latest[0][1]) if latest else 0.0
        return bool(state == "started") and seconds + microseconds / 1e6 - heard <= self._limit_s

    def started_at(self) -> float:
        """Return the start of the system's lifecycle in s since 1970; 0 if it never started."""
        return float(self._client.hget(self._keys.system, "lifecycle_id") or 0)

    def state(self) -> str:
        """Return the system's state: starting, started, stopping or stopped."""
        return str(self._client.hget(self._keys.system, "state") or "stopped")

    def set_override(self, agent: str, override: AgentOverride | None) -> None:
        """Set an agent's override; None removes it."""
        if override is None:
            self._client.hdel(self._keys.agent_overrides, agent)
        else:
            self._client.hset(self._keys.agent_overrides, agent, override)

    def overrides(self) -> dict[str, AgentOverride]:
        """Read the agents' overrides."""
        overrides: Any = self._client.hgetall(self._keys.agent_overrides)
        return dict(overrides)

    def agent_states(self) -> dict[str, str]:
        """Read the state of every agent that is starting, started or stopping."""
        lifecycles: Any = self._client.hgetall(self._keys.agent_lifecycles)
        return {agent: json.loads(text)["state"] for agent, text in lifecycles.items()}

    def workers(self) -> list[Worker]:
        """List the workers that have neither stopped nor been declared lost, by node."""
        texts: Any = self._client.hgetall(self._keys.worker_states)
        states = [(worker, json.loads(text)) for worker, text in texts.items()]
        workers = [Worker(id_, state["node"], state["phase"], dict(state["agents"])) for id_, state in states]
        return sorted(workers, key=lambda worker: worker.node)

    def read_unpublished(self, count: int) -> list[str]:
        """Read unpublished transitions, oldest first."""
        transitions: Any = self._client.lrange(self._keys.unpublished_transitions, 0, count - 1)
        return list(transitions)

    def mark_published(self, transitions: Sequence[str]) -> None:
        """Delete published transitions."""
        with self._client.pipeline(transaction=True) as pipe:
            for transition in transitions:
                pipe.lrem(self._keys.unpublished_transitions, 1, transition)
            pipe.execute()

    def abort(self, agent: str, correlation_id: str, age: timedelta) -> bool:
        """Abort a flow for an agent: its deliveries end unhandled. Returns whether that is new."""
        age_ms = int(age.total_seconds() * 1_000)
        with self._client.pipeline(transaction=True) as pipe:
            # A fetch looks at this key only (tasks/transport/scripts/fetch.lua).
            pipe.set(self._keys.any_aborted, "aborted", px=age_ms)
            pipe.set(self._keys.aborted(agent, correlation_id), "aborted", nx=True, px=age_ms)
            _, is_new = pipe.execute()
        return bool(is_new)

    def _run_transitions(self, worker: str, node: str, phase: str, agents: Mapping[str, ServingState]) -> ClusterState:
        keys = self._keys
        names = (
            keys.workers,
            keys.worker_states,
            keys.agent_lifecycles,
            keys.agent_overrides,
            keys.system,
            keys.unpublished_transitions,
        )
        state, is_closed, is_member, *overrides = self._update(
            keys=[*names, keys.directory_version], args=[worker, node, phase, self._limit_s, json.dumps(dict(agents))]
        )
        # A flat list of names and values: Redis does not return Lua tables with string keys.
        return ClusterState(
            state, bool(is_closed), bool(is_member), dict(zip(overrides[::2], overrides[1::2], strict=True))
        )
