"""The direct way: run a fetched delivery without kombu's message, Celery's request and its tracer.

Celery's own way builds, copies and decodes a message several times, which takes longer than a short handler. The direct
way leaves this out, as long as nobody watches. Before each delivery it is checked whether somebody does: task events,
INFO logs of tasks, a rate or time limit, receivers of Celery's task signals, overridden hooks of the task, a replaced
tracer (as monitoring tools install), a limit of tasks per child. Then the delivery takes Celery's way, as does one that
was revoked.

A process of a prefork pool can have receivers and tracers of its own, which monitoring tools install when it starts. So
it checks again before it runs the handler, and then runs Celery's tracer.

A running delivery stands in Celery's tables, so `inspect active` and `query_task` show it, and `current_task` is its
task. Prefork: tasks/consuming/jobs.py.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from celery import _state, signals, states
from celery.app import trace
from celery.app.task import Context as CeleryContext
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import Reject, Retry
from celery.worker import state

from petiole.tasks.delivery import Delivery, DeliveryTask, deliver
from petiole.tasks.instrumentation import OperationFailed, make_traceback_safe
from petiole.tasks.settlement.outcomes import DeadLettered
from petiole.tasks.settlement.settlement import REQUEUE_PAUSE_S, EntryParts, attempt_of_entry
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.commands import Fetched
from petiole.tasks.transport.message import build_payload, delivery_id_of

if TYPE_CHECKING:
    from petiole.tasks.transport.channel import BatchingChannel
    from petiole.tasks.transport.qos import QoS

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
_HOOKS = ("__call__", "before_start", "on_success", "on_failure", "on_retry", "after_return")
_CELERYS_MODULES = {"celery.app.task", "celery.app.trace"}  # its tracer replaces `__call__`
TASK_LOGGERS = (logging.getLogger("celery.worker.strategy"), logging.getLogger("celery.app.trace"))


def _is_not_logged(record: logging.LogRecord) -> bool:
    """Drop Celery's record of a failure that `delivery.dead_lettered` tells: each is logged once. A filter."""
    task: Any = _state.get_current_task()
    is_failure = record.levelno >= logging.ERROR and task is not None
    return not (is_failure and getattr(task.request, "is_failure_logged", False))


# It logs handlers' errors.
logging.getLogger("celery.app.trace").addFilter(make_traceback_safe)
logging.getLogger("celery.app.trace").addFilter(_is_not_logged)


class DirectWay:
    """Takes deliveries from the channel and gives them to the pool."""

    def __init__(self, consumer: CeleryConsumer, run: Callable[[DirectRequest], object]) -> None:
        self._consumer = consumer
        self._app = consumer.app
        self._run = run

    def accept(self, fetched: Fetched, channel: BatchingChannel) -> bool:
        """Run a delivery, or return False: it takes Celery's way."""
        if not fetched.tag or self._is_watched():
            return False
        entry = QueueEntry.parse(fetched.text)
        task = self._app.tasks.get(entry.subscription)
        if not isinstance(task, DeliveryTask) or not (entry.body or fetched.event):
            return False
        if self._is_limited(task) or _is_instrumented(task):
            return False
        request = DirectRequest(task, entry, fetched, channel, self._consumer.hostname)
        if request.revoked():
            return False
        channel.qos.append(request, fetched.tag)
        state.task_reserved(request)
        self._run(request)
        return True

    def _is_watched(self) -> bool:
        events = self._consumer.event_dispatcher
        return bool(
            (events and events.enabled and (not events.groups or "task" in events.groups))
            or state.revoked_stamps
            or any(logger.isEnabledFor(logging.INFO) for logger in TASK_LOGGERS)
        )

    def _is_limited(self, task: DeliveryTask) -> bool:
        controller = self._consumer.controller
        return bool(
            task.time_limit
            or task.soft_time_limit
            or controller.time_limit
            or controller.soft_time_limit
            or controller.max_tasks_per_child
            or self._consumer.task_buckets.get(task.name)
        )


class DirectRequest:
    """A delivery in Celery's tables, with the attributes that remote control reads."""

    acknowledged = is_terminated = False
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
        self.parts = EntryParts(
            fetched.text,
            fetched.event,
            self.id,
            fetched.tag,
            channel.consumer_id,
            fetched.fetched_at,
            hostname,
            self.delivery_info,
        )

    def execute_using_pool(self, pool: Any, **_: object) -> None:
        """Run the delivery in a slot of the pool; Celery calls this as for its own requests."""
        pool.apply_async(self._run, callback=_ignore)

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
        """End the process that runs the delivery; the delivery ends, too. Other pools than prefork cannot."""
        if self.worker_pid and isinstance(pool, ProcessPool):
            self.is_terminated = True
            pool.terminate_job(self.worker_pid, signal)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002 - Celery's
        """Do nothing: a delivery that runs keeps its lease over a lost connection."""

    @property
    def _qos(self) -> QoS:
        qos: Any = self.channel.qos  # the stubs describe kombu's
        return cast("QoS", qos)

    def give_back(self) -> None:
        """Return the delivery, which was not begun, to its queue."""
        state.task_ready(self)
        self._qos.give_back(self.delivery_tag, "unread")

    def crash(self) -> None:
        """Return the delivery to its queue; it crashed its process."""
        state.task_ready(self)
        self._qos.give_back(self.delivery_tag, "crashed")

    def _run(self) -> None:
        self.begin(os.getpid())
        is_requeued = True  # also if the worker is being ended
        try:
            is_requeued = not self.revoked() and run_entry(self.task, self.parts)
        finally:
            self.finish(is_requeued=is_requeued)

    def begin(self, pid: int) -> None:
        """Show the delivery as one that runs in a process; do nothing while the process is unknown (0)."""
        if pid:
            self.time_start, self.worker_pid = time.time(), pid
            state.task_accepted(self)

    def finish(self, *, is_requeued: bool = False) -> None:
        """Acknowledge the delivery, or return it to its queue."""
        state.task_ready(self)
        if is_requeued:
            self._qos.reject(self.delivery_tag, requeue=True)
        else:
            self.acknowledged = True
            self._qos.ack(self.delivery_tag)


def _ignore(_: object) -> None:
    """Take the result, for pools that call a callback in any case."""


def run_entry(task: DeliveryTask, parts: EntryParts) -> bool:
    """Run the delivery of a queue entry as Celery's tracer would; return whether it must return to its queue.

    Raises SystemExit if the process is being ended. Whatever else happens, the delivery has an outcome, or returns.
    """
    run = _run_traced if _is_instrumented(task) else _run_directly
    try:
        return run(task, parts)
    except Reject as rejected:
        return bool(getattr(rejected, "requeue", False))  # the stubs leave it out
    except Exception as failure:  # noqa: BLE001 - reported; the broker has the only copy
        record = OperationFailed(operation="delivery.failed", exception=failure, delivery_id=parts.delivery_id)
        task.bus.instrumentation.emit(record)
        time.sleep(REQUEUE_PAUSE_S)
        return True


def _run_directly(task: DeliveryTask, parts: EntryParts) -> bool:
    # Its constructor would look for each of forty names among the arguments.
    request = CeleryContext.__new__(CeleryContext)
    vars(request).update(
        id=parts.delivery_id,
        task=task.name,
        hostname=parts.hostname,
        delivery_info=parts.delivery_info,
        called_directly=False,
    )
    _tasks.push(task)
    task.request_stack.push(request)
    try:
        deliver(Delivery(attempt_of_entry(task.bus, task.handler.subscription.queue, parts), task.handler))
    except Retry:
        return False
    except DeadLettered as ended:
        vars(request)["is_failure_logged"] = True
        _report_failure(task, request, ended.error)
    finally:
        task.pop_request()
        _tasks.pop()
    return False


def _report_failure(task: DeliveryTask, request: CeleryContext, error: Exception) -> None:
    """Log a failure as Celery does. It is settled, so an error here changes nothing."""
    try:
        trace.TraceInfo(states.FAILURE, error).handle_error_state(task, request, call_errbacks=False)
    except Exception as failure:  # noqa: BLE001 - reported; Celery pickles the error, and prints what it carries
        task.bus.instrumentation.emit(OperationFailed(operation="failure.report_failed", exception=failure))


def _is_instrumented(task: DeliveryTask) -> bool:
    """Return whether this process has code that Celery's tracer would call around the handler."""
    kind, build_tracer = type(task), trace.build_tracer
    return (
        any(signal.receivers for signal in _WATCHED_SIGNALS)
        # A decorator can copy the name and the module of what it wraps, but not its type and its globals.
        or type(build_tracer) is not FunctionType
        or build_tracer.__globals__ is not vars(trace)
        or kind.run is not DeliveryTask.run
        or "run" in vars(task)
        or any(getattr(kind, hook).__module__ not in _CELERYS_MODULES for hook in _HOOKS)
    )


def _run_traced(task: DeliveryTask, parts: EntryParts) -> bool:
    """Run the delivery with Celery's tracer; return whether it must return to its queue."""
    queue = task.handler.subscription.queue
    fetched = Fetched(queue, parts.tag, parts.text, parts.event, parts.fetched_at)
    payload = build_payload(fetched, parts.consumer_id, parts.fetched_at)
    args, kwargs, _ = json.loads(payload["body"])
    request = payload["headers"] | {
        "properties": payload["properties"],
        "correlation_id": parts.delivery_id,
        "hostname": parts.hostname,
        "delivery_info": parts.delivery_info,
    }
    info = trace.trace_task(task, parts.delivery_id, args, kwargs, request, app=task.app).info
    return info is not None and isinstance(info.retval, Reject) and bool(getattr(info.retval, "requeue", False))
