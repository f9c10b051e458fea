"""Lifecycle: who works, what lives, and which agents were told to rest.

Promise: the lives of the system and of its agents take their steps in order and each step once, over all workers; see
cluster_membership.lua. What happened is kept in the list of what is untold until somebody has told it: nothing that happened goes
unsaid because a process died.
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
"""Where a worker is in its own life. One that is gone is forgotten."""

ServingState: TypeAlias = Literal["paused", "consuming", "draining", "stopped"]
"""How a worker serves an agent: it takes its events, or not now, or finishes what it has, or was told to stop."""

AgentOverride: TypeAlias = Literal["paused", "stopped"]
"""What an operator told an agent."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it says of itself."""

    id: str
    node: str
    phase: Phase
    agents: Mapping[str, ServingState]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What a worker is answered: the system's state, whether it takes part in it, and the agents' marks."""

    state: str
    is_closed: bool
    is_member: bool
    overrides: Mapping[str, AgentOverride]

    @property
    def is_ending(self) -> bool:
        """Whether the system is being shut down."""
        return self.is_closed and self.state == "stopping"


class ClusterMembership:
    """Workers, lives and marks."""

    def __init__(self, client: Redis, keys: Keys, limit: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._limit_s = limit.total_seconds()
        self._live = client.register_script(load_script("cluster_membership"))

    def send_heartbeat(self, worker: str, node: str, phase: Phase, agents: Mapping[str, ServingState]) -> ClusterState:
        """Say that a worker is there, and how it serves which agents. Safe to repeat."""
        return self._run_transitions(worker, node, phase, agents)

    def close(self, by: str) -> ClusterState:
        """Have the system stop, and publishers refused until it lives again; `by` whom. Safe to repeat."""
        return self._run_transitions("", by, "close", {})

    def is_closed(self) -> bool:
        """Tell whether publishers are to be refused."""
        return self._client.hget(self._keys.system, "closed") is not None

    def has_active_workers(self) -> bool:
        """Tell whether a worker is there that takes events, as far as one can know."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hget(self._keys.system, "state")
            pipe.zrange(self._keys.workers, -1, -1, withscores=True)
            (seconds, microseconds), state, latest = pipe.execute()
        heard = float(latest[0][1]) if latest else 0.0
        return bool(state == "started") and seconds + microseconds / 1e6 - heard <= self._limit_s

    def started_at(self) -> float:
        """Tell when the system's life began, in s since 1970; 0 where it never lived."""
        return float(self._client.hget(self._keys.system, "lifecycle_id") or 0)

    def state(self) -> str:
        """Tell the system's state: starting, started, stopping or stopped."""
        return str(self._client.hget(self._keys.system, "state") or "stopped")

    def set_override(self, agent: str, override: AgentOverride | None) -> None:
        """Note what an agent was told; None lifts it."""
        if override is None:
            self._client.hdel(self._keys.agent_overrides, agent)
        else:
            self._client.hset(self._keys.agent_overrides, agent, override)

    def overrides(self) -> dict[str, AgentOverride]:
        """Read what agents were told."""
        marks: Any = self._client.hgetall(self._keys.agent_overrides)
        return dict(marks)

    def agent_states(self) -> dict[str, str]:
        """Read the state of every agent that lives: starting, started or stopping."""
        lives: Any = self._client.hgetall(self._keys.agent_lifecycles)
        return {agent: json.loads(life)["state"] for agent, life in lives.items()}

    def workers(self) -> list[Worker]:
        """List the workers that are not known to be gone, by node."""
        facts: Any = self._client.hgetall(self._keys.worker_states)
        read = [(worker, json.loads(text)) for worker, text in facts.items()]
        found = [Worker(worker, each["node"], each["phase"], dict(each["agents"])) for worker, each in read]
        return sorted(found, key=lambda each: each.node)

    def read_unpublished(self, count: int) -> list[str]:
        """Read what happened and was not told yet, oldest first."""
        facts: Any = self._client.lrange(self._keys.unpublished_transitions, 0, count - 1)
        return list(facts)

    def mark_published(self, transitions: Sequence[str]) -> None:
        """Note that these were told."""
        with self._client.pipeline(transaction=True) as pipe:
            for fact in transitions:
                pipe.lrem(self._keys.unpublished_transitions, 1, fact)
            pipe.execute()

    def abort(self, agent: str, correlation_id: str, age: timedelta) -> bool:
        """Have an agent's deliveries of a flow end unhandled; returns whether that is new."""
        key = self._keys.aborted(agent, correlation_id)
        return bool(self._client.set(key, "aborted", nx=True, px=int(age.total_seconds() * 1_000)))

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
        state, is_closed, belongs, *marks = self._live(
            keys=[*names, keys.directory_version], args=[worker, node, phase, self._limit_s, json.dumps(dict(agents))]
        )
        # Not in one step as pairs: Lua has no order for them.
        return ClusterState(state, bool(is_closed), bool(belongs), dict(zip(marks[::2], marks[1::2], strict=True)))
