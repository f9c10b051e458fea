"""Celery's request of a task message: validate the message first, and handle every way in which its task ends.

Celery decodes a message twice, in the worker's main process and in the pool's process, and checks little. Errors would
appear in the pool's process, which cannot dead-letter the message. So the main process decodes it once and strictly,
and tasks/consuming/consumer.py dead-letters malformed messages. The pool's process gets the decoded arguments.

A task can also end from outside:

    its process crashed        count a crash of the delivery; the broker redelivers the message
    the hard time limit        settle a failed attempt; Celery would only acknowledge the message
    expired before it began    store a dead letter
    any other error            store a dead letter with the message's bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, Terminated
from celery.worker import state
from celery.worker.request import Request
from redis.exceptions import RedisError

from petiole.events.dead_letter import Cause
from petiole.events.errors import PayloadUnreadable, QueueFull, UsageError
from petiole.tasks.consuming.message_validation import check_request, decode
from petiole.tasks.delivery import DeliveryTask, handle_external_failure
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.settlement.dead_lettering import cause_of, dead_letter
from petiole.tasks.settlement.exits import as_failure
from petiole.tasks.settlement.undecodable import build_raw_dead_letter, leased_settlement
from petiole.tasks.stores.deliveries import ENTRY_HEADER
from petiole.tasks.stores.publications import Settlement
from petiole.tasks.transport.channel import BatchingChannel

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message and billiard's failure; the stubs describe too little of them to check against.
ReceivedMessage: TypeAlias = Any
Failure: TypeAlias = Any


class TaskRequest(Request):
    """The request of a task that takes one event."""

    def __init__(self, message: ReceivedMessage, **options: Any) -> None:
        if not options.get("decoded") and message.content_type == "application/json":
            options.update(body=decode(message.body), decoded=True)
        super().__init__(message, **options)
        check_request(self)

    _already_revoked: bool
    _already_cancelled: bool
    _is_being_cancelled = False

    @property
    def bus(self) -> BusRuntime:
        """The bus of this request's task."""
        task: Any = self.task
        return cast("BusRuntime", task.bus)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002 - Celery's
        """Cancel the task: its worker is told to end at once, or has lost its connection."""
        self._is_being_cancelled = True  # before the result backend is waited for, while a greenlet ends
        super().cancel(pool, signal, emit_retry)

    def acknowledge(self) -> None:
        """Acknowledge the message; one whose task was cancelled returns to its queue.

        The pools of greenlets report a task that they have killed as one that has succeeded.
        """
        if self._is_being_cancelled:
            self.reject(requeue=True)
        else:
            super().acknowledge()

    def on_failure(self, exc_info: Failure, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        """Handle what ended the task, before Celery acknowledges or requeues the message."""
        error = _error_in(exc_info)
        if not self._handle_failure(error, exc_info, was_run=return_ok):
            self.reject(requeue=True)
        if isinstance(error, MemoryError):
            # Celery would end the worker. The task that failed has freed its memory.
            exc_info.exception = as_failure(error, str(self.name))
        super().on_failure(exc_info, send_failed_event, return_ok)

    def store_dead_letter(self, error: BaseException, cause: Cause) -> bool:
        """Store a dead letter of this request; return False if that failed."""
        try:
            letter = build_raw_dead_letter(self.bus, self.message, error, cause, document=self.document)
            dead_letter(self.bus, letter, settlement=self.settlement, is_published=not self.is_shadow)
        except Exception as failure:  # noqa: BLE001 - reported; the message stays with the broker
            # Without a dead letter the broker has the only copy, so any error is reported and the message stays.
            self.report("dead_letter.write_failed", failure)
            return False
        return True

    @property
    def document(self) -> object:
        """The event's JSON object."""
        return next(iter(self.args or (self.kwargs or {}).values()), None)

    @property
    def settlement(self) -> Settlement | None:
        """What a dead letter of this request settles: an ordered delivery, whose message group advances."""
        return leased_settlement(self.message, self.id)

    @property
    def is_shadow(self) -> bool:
        """Whether the handler is a shadow, whose failures are not published."""
        handler = getattr(self.task, "handler", None)
        return bool(handler and handler.subscription.shadow)

    def _handle_failure(self, error: BaseException, exc_info: Failure, *, was_run: bool) -> bool:
        if self._already_revoked or self._already_cancelled:
            return True
        match error:
            case Terminated() | Reject() | Ignore() | Retry() | MaybeEncodingError():
                return True
            case WorkerLostError() | SystemExit() | KeyboardInterrupt():
                record_crash(self)
                return True
            case TimeLimitExceeded():
                # A worker in cold shutdown ends its processes in this way too.
                is_stopping: Any = state.should_terminate
                return not is_stopping and handle_timeout(self, error)
            case _ if was_run and not getattr(exc_info, "internal", False):
                return self.handle_run_failure(error)
            case _:
                return self._was_handled() or self.store_dead_letter(error, "failed" if was_run else "undecodable")

    def handle_run_failure(self, error: BaseException) -> bool:  # noqa: ARG002 - for those tasks that do not
        """Handle an error that the task raised; return whether it is handled. A delivery settles its own failures."""
        return True

    def _was_handled(self) -> bool:
        try:
            return self.bus.stores.inbox.is_handled(self.id)
        except Exception as failure:  # noqa: BLE001 - reported; the message stays with the broker
            self.report("inbox.read_failed", failure)
            return False

    def report(self, operation: str, failure: Exception) -> None:
        """Emit a record of an operation that failed for this request."""
        record = OperationFailed(operation=operation, exception=failure, delivery_id=self.id)
        self.bus.instrumentation.emit(record)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's
        error = TimeoutError(f"the task expired at {self.expires}, before it began")
        if expired and not self.store_dead_letter(error, "expired"):
            self.reject(requeue=True)
        super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]  # the stubs leave it out


class PublishRequest(TaskRequest):
    """The request of `petiole.publish`. Its publisher does not wait, so a refused event becomes a dead letter."""

    def handle_run_failure(self, error: BaseException) -> bool:
        """Dead-letter the event, unless the task has already done so for an invalid event or a full queue."""
        return isinstance(error, UsageError | PayloadUnreadable | QueueFull) or self.store_dead_letter(
            error, cause_of(error)
        )


def record_crash(request: TaskRequest) -> None:
    """Count a crash of the delivery. The broker redelivers it in any case."""
    channel = request.message.channel
    if isinstance(channel, BatchingChannel) and request.message.headers.get(ENTRY_HEADER):
        channel.give_back([request.message.delivery_tag], "crashed")
        return
    try:
        request.bus.stores.attempts.record_crash(request.id)
    except RedisError as failure:
        request.report("crash.record_failed", failure)


def handle_timeout(request: TaskRequest, error: Exception) -> bool:
    """Settle a failed attempt whose process was killed by Celery's hard time limit."""
    if not isinstance(request.task, DeliveryTask):
        return request.store_dead_letter(error, "failed")
    try:
        return handle_external_failure(request.task, Context(request.request_dict), request.document, error)
    except Exception as failure:  # noqa: BLE001 - reported; the message stays with the broker
        request.report("attempt.record_failed", failure)
        return False


def _error_in(failure: Failure) -> BaseException:
    error = failure.exception
    wrapped: BaseException = getattr(error, "exc", error) if not isinstance(error, Reject | Retry) else error
    return wrapped
