"""Requests: a task message in a worker, checked before anything is run, and seen to the end whatever ends it.

Celery reads a message twice, in the worker and in its slot, and checks little: what is wrong shows where nobody can
keep it any more. Here it is read once, strictly, in the worker; whatever is no task of ours is refused there, where
reception.py keeps it. The slot gets what was read.

What ends a run from outside is told apart too:

    its process died           noted as a death of this delivery; the broker delivers it again
    the hard time limit        the delivery has failed: Celery would acknowledge and forget it
    expired before it began    kept as a dead letter
    anything else outside      kept as a dead letter, with all its bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, Terminated
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import Request
from redis.exceptions import RedisError

from petiole.events.dead_letter import Cause
from petiole.events.errors import PayloadUnreadable, QueueFull, UsageError
from petiole.tasks.consuming.message_validation import check, decoded
from petiole.tasks.delivery import DeliveryTask, failed_from_outside
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.settlement.dead_lettering import bury, cause_of
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.undecodable import letter_of_message, mailbox_of
from petiole.tasks.stores.publications import Settling

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message and billiard's report of a failure, of which the stubs describe too little to be checked against.
Message: TypeAlias = Any
Failure: TypeAlias = Any

Result: TypeAlias = tuple[int, Any, float]
"""What Celery's tracer returns: whether it failed, the value as shown or the failure, the seconds it took."""

_HANDLED = saferepr(Outcome.HANDLED)  # as Celery's tracer passes on what a task returns


class BatchLost(WorkerLostError):  # noqa: N818 - as WorkerLost, whose name has Error for Celery's sake
    """The job that a delivery shared brought no results. Which of them ended it nobody knows."""


class TaskRequest(Request):
    """A request of a task that takes one event."""

    def __init__(self, message: Message, **options: Any) -> None:
        if not options.get("decoded") and message.content_type == "application/json":
            options.update(body=decoded(message.body), decoded=True)
        super().__init__(message, **options)
        check(self)

    _already_revoked: bool
    _already_cancelled: bool

    @property
    def bus(self) -> BusRuntime:
        """The bus that this request's task belongs to."""
        task: Any = self.task
        return cast("BusRuntime", task.bus)

    def __init_subclass__(cls, **options: Any) -> None:
        """Note what was handled: Celery makes a class for each task, with an `on_success` of its own."""
        super().__init_subclass__(**options)
        succeed: Any = cls.on_success

        def on_success(self: TaskRequest, failed__retval__runtime: Result, **options: Any) -> None:
            self.note_end(failed__retval__runtime)
            succeed(self, failed__retval__runtime, **options)

        cls.on_success = on_success  # type: ignore[method-assign,assignment]  # the stubs count self twice

    def note_end(self, failed__retval__runtime: Result) -> None:
        """Have the acknowledgement, which follows, mark the delivery in the inbox, where it was handled."""
        failed, shown, _ = failed__retval__runtime
        channel: Any = self.message.channel
        if not failed and shown == _HANDLED and getattr(channel, "ledger", None):
            channel.end(self.message.delivery_tag, self.id)

    def on_failure(self, exc_info: Failure, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        """Take note of what ended a run from outside, before Celery acknowledges it or has it delivered again."""
        if not self._is_seen_to(_error_in(exc_info), exc_info, was_run=return_ok):
            self.reject(requeue=True)
        super().on_failure(exc_info, send_failed_event, return_ok)

    def is_kept(self, error: BaseException, cause: Cause) -> bool:
        """Keep a dead letter of this request; returns False where that cannot be done now."""
        try:
            letter = letter_of_message(self.bus, self.message, error, cause, document=self.document)
            bury(self.bus, letter, settling=self.settling, is_told=not self.is_shadow)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported, and the message stays
            # Whatever it is: without a dead letter the broker's copy is the only one.
            self.report("dead_letter.write_failed", failure)
            return False
        return True

    @property
    def document(self) -> object:
        """The event's JSON object."""
        return next(iter(self.args or (self.kwargs or {}).values()), None)

    @property
    def settling(self) -> Settling | None:
        """What ends with a dead letter of this request."""
        mailbox = mailbox_of(self.message)
        return Settling(delivery_id=self.id, mailbox=mailbox) if mailbox else None

    @property
    def is_shadow(self) -> bool:
        """Tell whether nobody is to hear of it."""
        handler = getattr(self.task, "handler", None)
        return bool(handler and handler.subscription.shadow)

    def _is_seen_to(self, error: BaseException, exc_info: Failure, *, was_run: bool) -> bool:
        if self._already_revoked or self._already_cancelled:
            return True
        match error:
            case BatchLost() | Terminated() | Reject() | Ignore() | Retry() | MaybeEncodingError():
                return True
            case WorkerLostError() | SystemExit() | KeyboardInterrupt():
                note_death(self)
                return True
            case TimeLimitExceeded():
                # A worker that is told to stop at once ends its slots in this way, too.
                is_stopping: Any = state.should_terminate
                return not is_stopping and timed_out(self, error)
            case _ if was_run and not getattr(exc_info, "internal", False):
                return self.run_failed(error)
            case _:
                return self._was_handled() or self.is_kept(error, "failed" if was_run else "undecodable")

    def run_failed(self, error: BaseException) -> bool:  # noqa: ARG002 - for those tasks that do not
        """See to a run that ended in an error; returns whether it is. A delivery has kept its dead letter itself."""
        return True

    def _was_handled(self) -> bool:
        try:
            return self.bus.stores.inbox.has(self.id)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported, and the message stays
            self.report("inbox.read_failed", failure)
            return False

    def report(self, operation: str, failure: Exception) -> None:
        """Tell the listeners that an operation for this request failed."""
        record = OperationFailed(operation=operation, exception=failure, delivery_id=self.id)
        self.bus.instrumentation.emit(record)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's
        error = TimeoutError(f"the task expired at {self.expires}, before it began")
        if expired and not self.is_kept(error, "expired"):
            self.reject(requeue=True)
        super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]  # the stubs leave it out


class PublishRequest(TaskRequest):
    """A request to publish an event. What cannot be published has nobody who waits for the refusal."""

    def run_failed(self, error: BaseException) -> bool:
        """Keep the event, unless the task has: what is wrong with an event it sees to itself."""
        return isinstance(error, UsageError | PayloadUnreadable | QueueFull) or self.is_kept(error, cause_of(error))


def note_death(request: TaskRequest) -> None:
    """Count that a process died of a delivery. The broker delivers it again in any case."""
    try:
        request.bus.stores.attempts.note_death(request.id)
    except RedisError as failure:
        request.report("crash.record_failed", failure)


def timed_out(request: TaskRequest, error: Exception) -> bool:
    """See to a delivery whose process was ended by Celery's hard time limit: an attempt that failed."""
    if not isinstance(request.task, DeliveryTask):
        return request.is_kept(error, "failed")
    try:
        return failed_from_outside(request.task, Context(request.request_dict), request.document, error)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported, and the message stays
        request.report("attempt.record_failed", failure)
        return False


def _error_in(failure: Failure) -> BaseException:
    error = failure.exception
    wrapped: BaseException = getattr(error, "exc", error) if not isinstance(error, Reject | Retry) else error
    return wrapped
