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
from petiole.tasks.broker.topology import lanes
from petiole.tasks.consuming import agent_hooks
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.instrumentation import AgentChanged, OperationFailed
from petiole.tasks.operations.lifecycle_events import tell
from petiole.tasks.runtime import BusRuntime, bus_of
from petiole.tasks.stores.cluster_membership import Mark, Phase, Serving, Situation
from petiole.tasks.transport.consumer_id import this_holder

log = logging.getLogger(__name__)

INTERVAL_S = 0.5


class Heartbeat(bootsteps.StartStopStep):
    """A step of the consumer, before it takes its first message. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.heartbeat = self
        self._consumer = consumer
        self._bus = bus_of(consumer.app)
        agent_hooks.connect(self._bus)
        self._phase: Phase = "joining"
        self._own: tuple[Agent, ...] = ()
        self._served: dict[str, Serving] = {}
        self._obeyed: dict[str, Mark] = {}
        self._is_joined = self._will_obey = False
        # A round may be under way in its thread while the worker ends: who is gone must not be reported as there.
        self._lock = Lock()
        signals.worker_ready.connect(self._consumes, weak=False)

    def start(self, consumer: Any) -> None:
        """Report, and obey before anything is taken. Raises WorkerShutdown while the system is being shut down."""
        if self._is_joined:
            return
        self._own = tuple(agent_hooks.served_agents(self._bus))
        self._obey(self._bus.stores.lifecycle.marks())
        situation = self._send()
        if situation and situation.is_ending and not situation.belongs:
            self._send("gone")
            log.warning("worker.not_started", extra={"reason": "the system is being shut down; start it again later"})
            raise WorkerShutdown(EX_OK)
        if not isinstance(consumer.pool, ProcessPool):
            agent_hooks.start(self._own)
        self._is_joined = True
        self._tell()

    def stop(self, consumer: Any) -> None:
        """Report that the worker ends; a consumer that only connects anew goes on."""
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]  # not in the stubs
            self._leave("leaving")

    def shutdown(self, consumer: Any) -> None:
        """Report that no handler runs any more."""
        if self._is_joined and not isinstance(consumer.pool, ProcessPool):
            agent_hooks.stop(self._own)
        self._leave("gone")

    def renew(self) -> None:
        """Report that this worker is still there, tell what happened meanwhile, and obey."""
        situation = self._send() if self._is_joined else None
        if situation is None:
            return
        if situation.is_ending and self._phase == "working":
            log.warning("worker.shut_down", extra={"reason": "the system is being shut down"})
            worker_state.should_stop = EX_OK  # type: ignore[assignment]  # as Celery's own signal handlers do
        elif self._phase == "working" and not self._will_obey:
            # Only the consumer's own thread may change what it consumes.
            self._will_obey = True
            self._consumer.call_soon(self._obey, dict(situation.marks))
        tell(self._bus)

    def _consumes(self, sender: Any = None, **_: Any) -> None:
        if sender is self._consumer:
            self._look()
            self._report_or_warn("working")

    def _leave(self, phase: Phase) -> None:
        if self._is_joined:
            self._served = {agent.name: "ending" for agent in self._own}
            self._report_or_warn(phase)

    def _report_or_warn(self, phase: Phase) -> None:
        try:
            self._send(phase)
        except RedisError as error:
            self._report("heartbeat.failed", error, phase)
            return
        self._tell()

    def _send(self, phase: Phase | None = None) -> Situation | None:
        with self._lock:
            if self._phase == "gone":
                return None
            self._phase = phase or self._phase
            lifecycle = self._bus.stores.lifecycle
            return lifecycle.report(this_holder(), self._consumer.hostname, self._phase, self._served)

    def _tell(self) -> None:
        """Tell what can be told now; the rest is told by the next round, of this worker or another."""
        try:
            tell(self._bus)
        except (PetioleError, RedisError) as error:
            self._report("lifecycle.publish_failed", error)

    def _report(self, operation: str, error: Exception, subject: str | None = None) -> None:
        record = OperationFailed(operation=operation, exception=error, subject=subject)
        self._bus.instrumentation.emit(record)

    def _obey(self, marks: Mapping[str, Mark]) -> None:
        """Take up or leave queues where what their agents were told has changed. In the consumer's thread."""
        self._will_obey = False
        if self._consumer.task_consumer is None or self._phase == "leaving":
            return
        for agent in (each.name for each in self._own):
            if (agent in marks) != (agent in self._obeyed):
                change = self._consumer.cancel_task_queue if agent in marks else self._consumer.add_task_queue
                for lane in lanes(agent, self._bus.driver):
                    change(lane)
                record = AgentChanged(agent=agent, change="paused" if agent in marks else "resumed")
                self._bus.instrumentation.emit(record)
        self._obeyed = dict(marks)
        self._look()

    def _look(self) -> None:
        """See how this worker serves each of its agents."""
        takes = self._consumer.task_consumer.consuming_from
        served: dict[str, Serving] = {}
        for agent in (each.name for each in self._own):
            if any(takes(lane) for lane in lanes(agent, self._bus.driver)):
                served[agent] = "taking"
            elif self._obeyed.get(agent) != "stopped":
                served[agent] = "idle"
            else:
                served[agent] = "ending" if _has_in_hand(agent) else "resting"
        self._served = served


def _has_in_hand(agent: str) -> bool:
    return any(request.task_name.startswith(f"{agent}.") for request in list(worker_state.reserved_requests))


def _renew(_: BusRuntime, consumer: Any) -> None:
    heartbeat: Heartbeat | None = getattr(consumer, "heartbeat", None)
    if heartbeat is not None:
        heartbeat.renew()


HEARTBEAT = PeriodicJob("heartbeat", INTERVAL_S, _renew, outlasts_consuming=True)
