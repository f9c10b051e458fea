"""Presence: a worker says that it is there and how it serves its agents, and obeys what its agents were told.

    joining    it was started, and does not consume yet
    working    it consumes
    leaving    it was told to end, and finishes what it has in hand
    gone       its last handler has ended

Every half second it reports this to the store, which takes the steps of all lives from it
(tasks/stores/cluster_membership.py), and hears in answer what operators told the agents: of one that is paused or
stopped it takes no more events, until it
is resumed; its queue stays. Where the whole system is shut down, it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import Lock
from typing import Any

from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_OK
from celery.worker import state as worker_state
from redis.exceptions import RedisError

from petiole.events.errors import PetioleError
from petiole.tasks.agents import Agent
from petiole.tasks.broker.topology import broker_queues
from petiole.tasks.consuming import agent_hooks
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.instrumentation import AgentChanged, OperationFailed
from petiole.tasks.operations.lifecycle_events import publish_lifecycle_events
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.stores.cluster_membership import AgentOverride, ClusterState, Phase, ServingState
from petiole.tasks.transport.consumer_id import current_consumer_id

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 0.5


class Heartbeat(bootsteps.StartStopStep):
    """A step of the consumer, before it takes its first message. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.heartbeat = self
        self._consumer = consumer
        self._bus = bus_of(consumer.app)
        agent_hooks.connect(self._bus)
        self._phase: Phase = "starting"
        self._agents: tuple[Agent, ...] = ()
        self._served: dict[str, ServingState] = {}
        self._applied_marks: dict[str, AgentOverride] = {}
        self._has_joined = self._is_apply_scheduled = False
        # A round may be under way in its thread while the worker ends: who is gone must not be reported as there.
        self._lock = Lock()
        signals.worker_ready.connect(self._on_worker_ready, weak=False)

    def start(self, consumer: Any) -> None:
        """Report, and obey before anything is taken. Raises WorkerShutdown while the system is being shut down."""
        if self._has_joined:
            return
        self._agents = tuple(agent_hooks.served_agents(self._bus))
        self._apply_marks(self._bus.stores.cluster_membership.overrides())
        situation = self._send()
        if situation and situation.is_ending and not situation.is_member:
            self._send("stopped")
            log.warning("worker.start_refused", extra={"reason": "the system is being shut down; start it again later"})
            raise WorkerShutdown(EX_OK)
        if not isinstance(consumer.pool, ProcessPool):
            agent_hooks.run_start_hooks(self._agents)
        self._has_joined = True
        self._publish_lifecycle_events()

    def stop(self, consumer: Any) -> None:
        """Report that the worker ends; a consumer that only connects anew goes on."""
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._report_ending("stopping")

    def shutdown(self, consumer: Any) -> None:
        """Report that no handler runs any more."""
        if self._has_joined and not isinstance(consumer.pool, ProcessPool):
            agent_hooks.run_stop_hooks(self._agents)
        self._report_ending("stopped")

    def renew(self) -> None:
        """Report that this worker is still there, tell what happened meanwhile, and obey."""
        situation = self._send() if self._has_joined else None
        if situation is None:
            return
        if situation.is_ending and self._phase == "running":
            log.warning("worker.stopping", extra={"reason": "the system is being shut down"})
            worker_state.should_stop = EX_OK  # type: ignore[assignment]  # as Celery's own signal handlers do
        elif self._phase == "running" and not self._is_apply_scheduled:
            # Only the consumer's own thread may change what it consumes.
            self._is_apply_scheduled = True
            self._consumer.call_soon(self._apply_marks, dict(situation.overrides))
        publish_lifecycle_events(self._bus)

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
            self._send(phase)
        except RedisError as error:
            self._report("heartbeat.failed", error, phase)
            return
        self._publish_lifecycle_events()

    def _send(self, phase: Phase | None = None) -> ClusterState | None:
        with self._lock:
            if self._phase == "stopped":
                return None
            self._phase = phase or self._phase
            lifecycle = self._bus.stores.cluster_membership
            return lifecycle.send_heartbeat(current_consumer_id(), self._consumer.hostname, self._phase, self._served)

    def _publish_lifecycle_events(self) -> None:
        """Tell what can be told now; the rest is told by the next round, of this worker or another."""
        try:
            publish_lifecycle_events(self._bus)
        except (PetioleError, RedisError) as error:
            self._report("lifecycle.publish_failed", error)

    def _report(self, operation: str, error: Exception, subject: str | None = None) -> None:
        record = OperationFailed(operation=operation, exception=error, subject=subject)
        self._bus.instrumentation.emit(record)

    def _apply_marks(self, marks: Mapping[str, AgentOverride]) -> None:
        """Take up or leave queues where what their agents were told has changed. In the consumer's thread."""
        self._is_apply_scheduled = False
        if self._consumer.task_consumer is None or self._phase == "stopping":
            return
        for agent in (each.name for each in self._agents):
            if (agent in marks) != (agent in self._applied_marks):
                change = self._consumer.cancel_task_queue if agent in marks else self._consumer.add_task_queue
                for lane in broker_queues(agent, self._bus.driver):
                    change(lane)
                record = AgentChanged(agent=agent, change="paused" if agent in marks else "resumed")
                self._bus.instrumentation.emit(record)
        self._applied_marks = dict(marks)
        self._update_served()

    def _update_served(self) -> None:
        """See how this worker serves each of its agents."""
        takes = self._consumer.task_consumer.consuming_from
        served: dict[str, ServingState] = {}
        for agent in (each.name for each in self._agents):
            if any(takes(lane) for lane in broker_queues(agent, self._bus.driver)):
                served[agent] = "consuming"
            elif self._applied_marks.get(agent) != "stopped":
                served[agent] = "paused"
            else:
                served[agent] = "draining" if _has_running_deliveries(agent) else "stopped"
        self._served = served


def _has_running_deliveries(agent: str) -> bool:
    return any(request.task_name.startswith(f"{agent}.") for request in list(worker_state.reserved_requests))


def _send_heartbeat(_: BusRuntime, consumer: Any) -> None:
    heartbeat: Heartbeat | None = getattr(consumer, "heartbeat", None)
    if heartbeat is not None:
        heartbeat.renew()


HEARTBEAT = PeriodicJob("heartbeat", HEARTBEAT_INTERVAL_S, _send_heartbeat, runs_during_shutdown=True)
