"""The direct way: run a fetched delivery without kombu's message, Celery's request and its tracer.

Celery's own way builds, copies and decodes a message several times, which takes longer than a short handler. The direct
way leaves this out, as long as nobody watches. Before each delivery it is checked whether somebody does: task events,
INFO logs of tasks, revoked tasks, a rate or time limit, receivers of Celery's task signals, a replaced tracer (as
monitoring tools install), a limit of tasks per child. Then the delivery takes Celery's way.

A running delivery stands in Celery's tables, so `inspect active` and `query_task` show it, and `current_task` is its
task. Prefork: tasks/consuming/jobs.py.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from celery import _state, signals, states
from celery.app import trace
from celery.app.task import Context as CeleryContext
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state

from petiole.tasks.delivery import Delivery, DeliveryTask, deliver
from petiole.tasks.settlement.settlement import attempt_of_entry
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.commands import Fetched
from petiole.tasks.transport.message import delivery_id_of

if TYPE_CHECKING:
    from petiole.tasks.transport.channel import BatchingChannel

# Celery's own object, of which celery-types describes too little to be checked against.
CeleryConsumer: TypeAlias = Any

# The stack of `current_task`; the stubs leave it out.
_tasks: Any = _state._task_stack  # type: ignore[attr-defined]  # noqa: SLF001

_WATCHED_SIGNALS = (
    signals.task_received,
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_rejected,
    signals.task_internal_error,
)
_INFO_LOGGERS = (logging.getLogger("celery.worker.strategy"), logging.getLogger("celery.app.trace"))


class DirectWay:
    """Takes deliveries from the channel and gives them to the pool."""

    def __init__(self, consumer: CeleryConsumer) -> None:
        self._consumer = consumer
        self._app = consumer.app

    def accept(self, fetched: Fetched, channel: BatchingChannel) -> bool:
        """Run a delivery, or return False: it takes Celery's way."""
        if not fetched.tag or self._is_watched():
            return False
        entry = QueueEntry.parse(fetched.text)
        task = self._app.tasks.get(entry.subscription)
        if not isinstance(task, DeliveryTask) or self._is_limited(task) or not (entry.body or fetched.event):
            return False
        request = DirectRequest(task, entry, fetched, channel, self._consumer.hostname)
        channel.qos.append(request, fetched.tag)
        state.task_reserved(request)
        self._consumer.on_task_request(request)
        return True

    def _is_watched(self) -> bool:
        consumer = self._consumer
        events = consumer.event_dispatcher
        return bool(
            isinstance(consumer.pool, ProcessPool)
            or (events and events.enabled)
            or state.revoked
            or state.revoked_stamps
            or any(signal.receivers for signal in _WATCHED_SIGNALS)
            or any(logger.isEnabledFor(logging.INFO) for logger in _INFO_LOGGERS)
            or trace.build_tracer.__module__ != "celery.app.trace"
        )

    def _is_limited(self, task: DeliveryTask) -> bool:
        controller = self._consumer.controller
        return bool(
            task.time_limit
            or task.soft_time_limit
            or controller.time_limit
            or controller.soft_time_limit
            or self._consumer.task_buckets.get(task.name)
        )


class DirectRequest:
    """A delivery in Celery's tables, with the attributes that remote control reads."""

    acknowledged = False
    stamps: Any = None
    eta = expires = None
    args: tuple[object, ...] = ()
    kwargs: Any = None

    def __init__(
        self, task: DeliveryTask, entry: QueueEntry, fetched: Fetched, channel: BatchingChannel, hostname: str
    ) -> None:
        self.task = task
        self.message = self
        self.channel = channel
        self.delivery_tag = fetched.tag
        self.hostname = hostname
        self.id = self.task_id = delivery_id_of(entry, fetched.event)
        self.name = self.task_name = self.type = task.name
        self.delivery_info = {"exchange": "", "routing_key": fetched.queue, "redelivered": entry.crashes is not None}
        self.time_start: float | None = None
        self.worker_pid: int | None = None
        self._entry = entry
        self._fetched = fetched

    def execute_using_pool(self, pool: Any, **_: object) -> None:
        """Run the delivery in a slot of the pool; Celery calls this as for its own requests."""
        pool.apply_async(self._run)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - Celery's
        """Describe the delivery for `inspect`."""
        return {
            "id": self.id,
            "name": self.name,
            "args": [],
            "kwargs": {},
            "type": self.name,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def revoked(self) -> bool:
        """Return whether the delivery was revoked before it began."""
        return self.id in state.revoked

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Do nothing: the pools of this way cannot terminate a delivery that runs."""

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002 - Celery's
        """Do nothing: a delivery that runs keeps its lease over a lost connection."""

    def _run(self) -> None:
        self.time_start, self.worker_pid = time.time(), os.getpid()
        if self.revoked():
            self._finish(is_requeued=False)
            return
        state.task_accepted(self)
        request = CeleryContext(
            id=self.id, task=self.name, hostname=self.hostname, delivery_info=self.delivery_info, called_directly=False
        )
        _tasks.push(self.task)
        self.task.request_stack.push(request)
        is_requeued = False
        try:
            attempt = attempt_of_entry(
                self.task.bus,
                self._entry,
                delivery_id=self.id,
                event=self._fetched.event,
                lease=(self.delivery_tag, self.channel.consumer_id),
                fetched_at=self._fetched.fetched_at,
                worker=self.hostname,
                queue=self.task.handler.subscription.queue,
            )
            deliver(Delivery(attempt, self.task.handler))
        except (Retry, Ignore):
            pass
        except Reject as rejected:
            is_requeued = bool(getattr(rejected, "requeue", False))  # the stubs leave it out
        except Exception as failure:  # noqa: BLE001 - the handler's, which has been settled
            info = trace.TraceInfo(states.FAILURE, failure)
            info.handle_error_state(self.task, request, call_errbacks=False)
        finally:
            self.task.pop_request()
            _tasks.pop()
        self._finish(is_requeued=is_requeued)

    def _finish(self, *, is_requeued: bool) -> None:
        state.task_ready(self)
        if is_requeued:
            self.channel.qos.reject(self.delivery_tag, requeue=True)
        else:
            self.acknowledged = True
            self.channel.qos.ack(self.delivery_tag)
