"""The worker's heartbeat: report its phase and its agents, and apply operators' overrides.

    starting    the worker does not consume yet
    running     it consumes
    stopping    it is shutting down and finishes its running deliveries
    stopped     its last handler has ended

Four times per heartbeat timeout, and at least every 2 s, the worker sends its phase and the state of its agents to the
store, which derives the state of the system and of every agent (tasks/stores/cluster_membership.py). The response has
the overrides that operators set: the worker stops consuming the queue of a paused or stopped agent until it is resumed.
The worker ends when the system is shut down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_OK, EX_USAGE
from celery.worker import state as worker_state
from redis.exceptions import RedisError

from petiole.events.errors import PetioleError, duplicate_node
from petiole.tasks.agents import Agent
from petiole.tasks.broker.topology import broker_queues
from petiole.tasks.consuming import agent_hooks
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.instrumentation import AgentChanged, OperationFailed
from petiole.tasks.operations.lifecycle_events import publish_lifecycle_events
from petiole.tasks.publishing.schema_check import report_differences
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.stores.cluster_lifecycle import AgentOverride, Cluster, Phase, ServingState, Worker
from petiole.tasks.transport.consumer_id import current_process_id

log = logging.getLogger(__name__)

HEARTBEATS_PER_TIMEOUT = 4
"""A worker that misses so many heartbeats in a row is lost."""

MAX_INTERVAL_S = 2.0
"""Longest time between two heartbeats, and so until a worker applies an override."""


class Heartbeat(bootsteps.StartStopStep):
    """A step of the consumer's start, before the first message. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.heartbeat = self
        self._consumer = consumer
        self._bus = bus_of(consumer.app)
        agent_hooks.connect(self._bus)
        self._phase: Phase = "starting"
        self.sent_at = float("-inf")
        """When the state store took the last heartbeat (`time.monotonic`)."""
        self._agents: tuple[Agent, ...] = ()
        self._served: dict[str, ServingState] = {}
        self._applied_overrides: dict[str, AgentOverride] = {}
        self._has_joined = self._is_apply_scheduled = False
        # A heartbeat may run in its thread while the worker ends: it must not report a stopped worker as running.
        self._lock = Lock()
        signals.worker_ready.connect(self._on_worker_ready, weak=False)

    @property
    def phase(self) -> Phase:
        """What the worker is doing."""
        return self._phase

    @property
    def unpaused_agents(self) -> list[str]:
        """The agents of this worker that no operator has paused or stopped; it should consume their queues."""
        return [agent.name for agent in self._agents if agent.name not in self._applied_overrides]

    def start(self, consumer: Any) -> None:
        """Join the cluster and apply overrides before the first message.

        Raises WorkerShutdown while the system is shutting down, and if another worker has this one's node name.
        """
        if self._has_joined:
            return
        self._refuse_second_worker_of_name()
        self._agents = tuple(agent_hooks.served_agents(self._bus))
        self._apply_overrides(self._bus.stores.cluster_membership.read().overrides)
        cluster = self._send()
        if cluster and cluster.is_ending and not cluster.is_member(current_process_id()):
            self._send("stopped")
            log.warning("worker.start_refused", extra={"reason": "the system is shutting down; start the worker later"})
            raise WorkerShutdown(EX_OK)
        if not isinstance(consumer.pool, ProcessPool):
            agent_hooks.run_start_hooks(self._agents)
        self._has_joined = True
        if cluster:
            self._announce_schemas(cluster)
        self._publish_lifecycle_events(cluster)

    def _announce_schemas(self, cluster: Cluster) -> None:
        if own := report_differences(self._bus, cluster, current_process_id()):
            self._bus.stores.schema_fingerprints.announce(current_process_id(), own, cluster.workers.keys())

    def _refuse_second_worker_of_name(self) -> None:
        node, interval_s = self._consumer.hostname, _interval_s(self._bus)
        if self._bus.stores.cluster_membership.has_living_worker(node, wait_s=2 * interval_s):
            log.error("worker.start_refused: %s", duplicate_node(node))
            raise WorkerShutdown(EX_USAGE)

    def stop(self, consumer: Any) -> None:
        """Report that the worker is ending; do nothing when the consumer only reconnects."""
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._report_ending("stopping")

    def shutdown(self, consumer: Any) -> None:
        """Report that the last handler has ended."""
        if self._has_joined and not isinstance(consumer.pool, ProcessPool):
            agent_hooks.run_stop_hooks(self._agents)
        self._report_ending("stopped")

    def renew(self) -> None:
        """Send a heartbeat, apply the overrides in the response, and publish lifecycle events."""
        cluster = self._send() if self._has_joined else None
        if cluster is None:
            return
        if cluster.is_ending and self._phase == "running":
            log.warning("worker.stopping", extra={"reason": "the system is shutting down"})
            worker_state.should_stop = EX_OK  # type: ignore[assignment]  # as Celery's own signal handlers do
        elif self._phase == "running" and not self._is_apply_scheduled:
            # Only the consumer's own thread may change its queues.
            self._is_apply_scheduled = True
            self._consumer.call_soon(self._apply_overrides, cluster.overrides)
        publish_lifecycle_events(self._bus, cluster)

    def _on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        if sender is self._consumer:
            self._update_served()
            self._report_or_warn("running")

    def _report_ending(self, phase: Phase) -> None:
        if self._has_joined:
            self._served = {agent.name: "draining" for agent in self._agents}
            self._report_or_warn(phase)

    def _report_or_warn(self, phase: Phase) -> None:
        try:
            cluster = self._send(phase)
        except RedisError as error:
            self._report("heartbeat.failed", error, phase)
            return
        self._publish_lifecycle_events(cluster)

    def _send(self, phase: Phase | None = None) -> Cluster | None:
        with self._lock:
            if self._phase == "stopped":
                return None
            self._phase = phase or self._phase
            worker = Worker(self._consumer.hostname, self._phase, self._served)
            cluster = self._bus.stores.cluster_membership.send_heartbeat(current_process_id(), worker)
            self.sent_at = time.monotonic()
            return cluster

    def _publish_lifecycle_events(self, cluster: Cluster | None) -> None:
        """Publish pending lifecycle events; after an error the next heartbeat of any worker publishes them."""
        try:
            if cluster:
                publish_lifecycle_events(self._bus, cluster)
        except (PetioleError, RedisError) as error:
            self._report("lifecycle.publish_failed", error)

    def _report(self, operation: str, error: Exception, subject: str | None = None) -> None:
        record = OperationFailed(operation=operation, exception=error, subject=subject)
        self._bus.instrumentation.emit(record)

    def _apply_overrides(self, overrides: Mapping[str, AgentOverride]) -> None:
        """Stop or resume consuming the queues of agents whose override has changed. Runs in the consumer's thread."""
        self._is_apply_scheduled = False
        if self._consumer.task_consumer is None or self._phase == "stopping":
            return
        for agent in self._agents:
            if (agent.name in overrides) != (agent.name in self._applied_overrides):
                self._change_queues(agent, paused=agent.name in overrides)
        self._applied_overrides = dict(overrides)
        self._update_served()

    def _change_queues(self, agent: Agent, *, paused: bool) -> None:
        change_queue = self._consumer.cancel_task_queue if paused else self._consumer.add_task_queue
        for queue in broker_queues(agent.name, self._bus.driver):
            change_queue(queue)
        self._bus.instrumentation.emit(AgentChanged(agent=agent.name, change="paused" if paused else "resumed"))

    def _update_served(self) -> None:
        """Update the state in which this worker serves each of its agents."""
        is_consumed = self._consumer.task_consumer.consuming_from
        served: dict[str, ServingState] = {}
        for agent in self._agents:
            name = agent.name
            if any(is_consumed(queue) for queue in broker_queues(name, self._bus.driver)):
                served[name] = "consuming"
            elif self._applied_overrides.get(name) != "stopped":
                served[name] = "paused"
            else:
                served[name] = "draining" if _has_running_deliveries(name) else "stopped"
        self._served = served


def _has_running_deliveries(agent: str) -> bool:
    return any(request.task_name.startswith(f"{agent}.") for request in list(worker_state.reserved_requests))


def _send_heartbeat(bus: BusRuntime, consumer: Any) -> float:
    heartbeat: Heartbeat | None = getattr(consumer, "heartbeat", None)
    if heartbeat is not None:
        heartbeat.renew()
    return _interval_s(bus)


def _interval_s(bus: BusRuntime) -> float:
    return min(MAX_INTERVAL_S, bus.settings.heartbeat_timeout_s / HEARTBEATS_PER_TIMEOUT)


HEARTBEAT = PeriodicJob("heartbeat", MAX_INTERVAL_S, _send_heartbeat, runs_during_shutdown=True)
