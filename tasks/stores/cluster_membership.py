"""Cluster membership: which workers are alive, lifecycles of the system and its agents, agents paused by an operator.

Promise: each lifecycle transition happens once and in order, over all workers. Transitions are kept until they are
published, so a crash loses none.

The cluster is one JSON document. A change reads it, computes the next one (cluster_lifecycle.py) and stores that unless
another process stored one meanwhile; then it begins again. Heartbeats are keys that expire, so the server's clock alone
decides who is silent. A heartbeat changes the document only if there is something new: it costs three commands
otherwise. If the server has lost the document, the next heartbeat stores the latest one that its worker knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter
from redis import Redis

from petiole.tasks.stores import cluster_lifecycle
from petiole.tasks.stores.cluster_lifecycle import AgentOverride, Cause, Cluster, Transition, Worker
from petiole.tasks.stores.keys import Keys

_CLUSTER = TypeAdapter(Cluster)
_HEARTBEAT_POLL_S = 0.05


class ClusterMembership:
    """Workers, lifecycles and overrides. `monotonic` is the clock of this process, in s."""

    def __init__(
        self, client: Redis, keys: Keys, limit: timedelta, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._keys = keys
        self._limit = limit
        self._monotonic = monotonic
        self._latest: tuple[str | None, Cluster] = None, Cluster()
        self._contact_at = self._in_touch_since = float("-inf")

    def send_heartbeat(self, worker_id: str, worker: Worker) -> Cluster:
        """Report that a worker is alive and how it serves its agents. Safe to repeat."""
        version, cluster = self._latest
        known = cluster.workers.get(worker_id)
        is_unchanged = known is not None and replace(known, lifecycle_id="") == worker
        if self._renew(worker_id, version, cluster) and is_unchanged:
            return cluster
        return self._change(partial(self._report, worker_id, worker))

    def close(self, by: str) -> Cluster:
        """Stop the system and reject publishers until it starts again; `by` names the cause. Safe to repeat."""
        return self._change(lambda pipe, before: cluster_lifecycle.close_system(before, Cause(_server_time(pipe), by)))

    def set_override(self, agent: str, override: AgentOverride | None) -> None:
        """Set an agent's override; None removes it."""

        def apply(_: Any, cluster: Cluster) -> Cluster:
            overrides = {**cluster.overrides, agent: override}
            return replace(cluster, overrides={name: other for name, other in overrides.items() if other is not None})

        self._change(apply)

    def mark_published(self, transitions: Sequence[Transition]) -> None:
        """Delete published transitions."""

        def apply(_: Any, cluster: Cluster) -> Cluster:
            return replace(cluster, unpublished=tuple(each for each in cluster.unpublished if each not in transitions))

        self._change(apply)

    def read(self) -> Cluster:
        """Read the cluster."""
        return _CLUSTER.validate_json(str(self._client.get(self._keys.cluster) or "{}"))

    def is_closed(self) -> bool:
        """Return whether publishers are rejected."""
        return self.read().is_closed

    def has_active_workers(self) -> bool:
        """Return whether the system is started and a worker was heard of within the heartbeat timeout."""
        cluster = self.read()
        heartbeats = [self._keys.heartbeat(worker_id) for worker_id in cluster.workers]
        return cluster.state == "started" and bool(heartbeats) and bool(self._client.exists(*heartbeats))

    def has_living_worker(self, node: str, wait_s: float) -> bool:
        """Return whether a worker with that node name sends heartbeats; one that is ending does not count.

        If a worker of that name is listed, this waits for its next heartbeat, because it may have been killed.
        """
        workers = self.read().workers.items()
        heartbeats = [
            self._keys.heartbeat(worker_id)
            for worker_id, worker in workers
            if worker.node == node and worker.phase in ("starting", "running")
        ]
        known_ms = self._times_left_ms(heartbeats)
        deadline = self._monotonic() + wait_s
        while any(left_ms > 0 for left_ms in known_ms) and self._monotonic() < deadline:
            time.sleep(_HEARTBEAT_POLL_S)
            left_ms = self._times_left_ms(heartbeats)
            if any(now > before for now, before in zip(left_ms, known_ms, strict=True)):
                return True
            known_ms = left_ms
        return False

    def _times_left_ms(self, heartbeats: Sequence[str]) -> list[int]:
        return [int(self._client.pttl(heartbeat)) for heartbeat in heartbeats]

    def abort(self, agent: str, correlation_id: str, age: timedelta) -> bool:
        """Abort a flow for an agent: its deliveries end unhandled. Returns whether that is new."""
        age_ms = int(age.total_seconds() * 1_000)
        with self._client.pipeline(transaction=True) as pipe:
            # A fetch looks at this key only (tasks/transport/scripts/fetch.lua).
            pipe.set(self._keys.any_aborted, "aborted", px=age_ms)
            pipe.set(self._keys.aborted(agent, correlation_id), "aborted", nx=True, px=age_ms)
            _, is_new = pipe.execute()
        return bool(is_new)

    def cancel(self, correlation_id: str, age: timedelta) -> bool:
        """Cancel a flow: its deliveries to all agents end unhandled. Returns whether that is new."""
        age_ms = int(age.total_seconds() * 1_000)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.any_aborted, "aborted", px=age_ms)
            pipe.set(self._keys.cancelled(correlation_id), "cancelled", nx=True, px=age_ms)
            _, is_new = pipe.execute()
        return bool(is_new)

    def find_cancelled(self, correlation_ids: Sequence[str]) -> set[str]:
        """Return which of these flows are cancelled."""
        marks: Any = self._client.mget([self._keys.cancelled(flow) for flow in correlation_ids])
        return {flow for flow, mark in zip(correlation_ids, marks, strict=True) if mark is not None}

    def _renew(self, worker_id: str, version: str | None, cluster: Cluster) -> bool:
        """Extend a worker's heartbeat; returns False if the cluster has changed or a worker may have been lost."""
        others = [self._keys.heartbeat(other) for other in cluster.workers if other != worker_id]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.pexpire(self._keys.heartbeat(worker_id), self._limit)
            pipe.mget(self._keys.cluster_version, *others)
            pipe.exists(self._keys.cluster)
            was_alive, (latest_version, *heard), is_stored = pipe.execute()
        self._record_contact(was_alive=was_alive)
        is_complete = all(heard) or not self._may_declare_lost()
        is_latest = version is not None and latest_version == version
        return bool(was_alive) and bool(is_stored) and is_latest and is_complete

    def _report(self, worker_id: str, worker: Worker, pipe: Any, cluster: Cluster) -> Cluster:
        heartbeat = self._keys.heartbeat(worker_id)
        if worker.phase == "stopped":
            pipe.delete(heartbeat)
        else:
            pipe.set(heartbeat, worker.node, px=self._limit)
        at, others = _server_time(pipe), [other for other in cluster.workers if other != worker_id]
        heard = pipe.mget([heartbeat, *map(self._keys.heartbeat, others)])[1:]
        silent = [other for other, node in zip(others, heard, strict=True) if node is None]
        # A new worker may declare others lost at once, or a crash of all workers would have no end.
        may_declare_lost = self._may_declare_lost(is_new=worker_id not in cluster.workers)
        return cluster_lifecycle.apply_report(cluster, worker_id, worker, at, silent if may_declare_lost else ())

    def _record_contact(self, *, was_alive: bool) -> None:
        now = self._monotonic()
        if not was_alive or not self._is_in_touch(now):
            self._in_touch_since = now
        self._contact_at = now

    def _may_declare_lost(self, *, is_new: bool = False) -> bool:
        """Return whether a silence of others is theirs: this worker missed no heartbeat of its own for one timeout."""
        now = self._monotonic()
        return self._is_in_touch(now) and (is_new or now - self._in_touch_since > self._limit.total_seconds())

    def _is_in_touch(self, now: float) -> bool:
        return now - self._contact_at <= self._limit.total_seconds() / 2

    def _change(self, compute: Callable[[Any, Cluster], Cluster]) -> Cluster:
        """Replace the cluster by what `compute` makes of it; computed again if it was changed meanwhile."""

        def attempt(pipe: Any) -> tuple[str | None, Cluster]:
            version, text = pipe.mget(self._keys.cluster_version, self._keys.cluster)
            stored = _CLUSTER.validate_json(text or "{}")
            after = compute(pipe, stored if text else self._latest[1])
            pipe.multi()
            if after == stored:
                return version, stored
            # Not a number: after a loss it could be that of another document.
            version = str(uuid4())
            pipe.set(self._keys.cluster, _CLUSTER.dump_json(after))
            pipe.set(self._keys.cluster_version, version)
            if after.is_closed != stored.is_closed:
                # Publishers compare the directory's version with each event.
                pipe.incr(self._keys.directory_version)
            return version, after

        # The stubs know of no function that returns a value.
        transaction: Any = self._client.transaction
        self._latest = transaction(attempt, self._keys.cluster_version, value_from_callable=True)
        return self._latest[1]


def _server_time(pipe: Any) -> str:
    seconds, microseconds = pipe.time()
    return f"{seconds}.{microseconds:06d}"
