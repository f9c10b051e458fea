"""Reception: what a worker is handed and cannot take as a task is kept as a raw dead letter, and only then let go.

Celery logs such messages and drops them; some end its event loop. Here each of its four ways out first keeps the
message, tells the error channel, and lets an ordered mailbox go on. Where nothing can be kept, the message stays
unacknowledged in this worker, which tries again every few seconds; if it ends, the broker has the message still.

    on_decode_error       a body of no known encoding
    on_unknown_message    no task is named
    on_unknown_task       a task is named that this worker has not
    on_invalid_task       a task that is not as tasks are; and whatever else its message makes Celery raise
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from celery.exceptions import NotRegistered
from celery.worker import state
from celery.worker.consumer.consumer import Consumer as CeleryConsumer

from petiole.events.dead_letter import Cause
from petiole.events.errors import UsageError
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.runtime import bus_of
from petiole.tasks.settlement.dead_lettering import dead_letter
from petiole.tasks.settlement.undecodable import build_raw_dead_letter, message_group_of, read_document, read_headers
from petiole.tasks.stores.publications import Settlement

# Kombu's, of which the stubs describe too little to be checked against.
ReceivedMessage: TypeAlias = Any

RETRY_DELAY_S = 5.0
"""How long a message that could not be kept waits for another try. It takes a place of the prefetch meanwhile."""

log = logging.getLogger(__name__)


class Consumer(CeleryConsumer):
    """Celery's consumer, that loses nothing and survives whatever it is sent."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[valid-type,misc]  # the stubs leave it out
        """Celery's steps, with ours."""

        default_steps = (
            *CeleryConsumer.Blueprint.default_steps,
            "petiole.tasks.consuming.announcement:SubscriptionRegistration",
            "petiole.tasks.consuming.heartbeat:Heartbeat",
            "petiole.tasks.consuming.maintenance:WorkerJobs",
            "petiole.tasks.settlement.deduplication:DeduplicationStep",
        )

    app: Any
    timer: Any
    task_consumer: Any
    call_soon: Any
    connection_errors: Any
    channel_errors: Any

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[ReceivedMessage], object]:
        """Make what takes a message: Celery's, which knows some errors by name, inside of what knows them all."""
        receive = super().create_task_handler(*args, **options)

        def on_message(message: ReceivedMessage) -> None:
            try:
                receive(message)
            except MemoryError:
                raise
            except Exception as error:  # what a message makes Celery raise is without bounds
                if self._is_connection_error(error):
                    raise
                if message.acknowledged:
                    log.exception("message.handling_failed")
                else:
                    self.on_invalid_task(None, message, error)

        return on_message

    def on_decode_error(self, message: ReceivedMessage, exc: Exception) -> None:
        """Keep a message that cannot be decoded."""
        self._dead_letter_and_finish(message, exc, "undecodable", partial(super().on_decode_error, message, exc))

    def on_unknown_message(self, body: object, message: ReceivedMessage) -> None:
        """Keep a message that names no task."""
        error = ValueError("the message names no task")
        self._dead_letter_and_finish(message, error, "undecodable", partial(super().on_unknown_message, body, message))

    def on_unknown_task(self, body: object, message: ReceivedMessage, exc: Exception) -> None:
        """Keep a message for a task that this worker has not."""
        error = NotRegistered(read_headers(message).get("task"))
        self._dead_letter_and_finish(
            message, error, "unknown_task", partial(super().on_unknown_task, body, message, exc)
        )

    def on_invalid_task(self, body: object, message: ReceivedMessage, exc: Exception) -> None:
        """Keep a message that is not as a task's message is."""
        cause: Cause = (
            "invalid" if isinstance(exc, UsageError) else "failed" if _was_started(message) else "undecodable"
        )
        self._dead_letter_and_finish(message, exc, cause, partial(super().on_invalid_task, body, message, exc))

    def _dead_letter_and_finish(
        self, message: ReceivedMessage, error: Exception, cause: Cause, finish: Callable[[], object]
    ) -> None:
        """Keep a message, then do with it as Celery does: log it, signal it, and acknowledge or reject it."""
        if not self._store_dead_letter(message, error, cause):
            again = partial(self._schedule_retry, message, error, cause, finish)
            self.timer.call_after(RETRY_DELAY_S, self.call_soon, (again,))
            return
        try:
            finish()
        except Exception as unfinished:
            if self._is_connection_error(unfinished):
                raise
            # Celery looks into the message to tell of it, and finds anything there.
            log.exception("message.handling_failed")
        if not message.acknowledged:
            message.ack()

    def _is_connection_error(self, error: Exception) -> bool:
        # Kombu counts a KeyError among what a lost connection to Redis raises, and a header that is missing raises one.
        lost = (*self.connection_errors, *self.channel_errors)
        return isinstance(error, lost) and not isinstance(error, LookupError)

    def _store_dead_letter(self, message: ReceivedMessage, error: Exception, cause: Cause) -> bool:
        try:
            letter = build_raw_dead_letter(
                bus_of(self.app),
                message,
                error,
                cause,
                document=read_document(message) if cause == "unknown_task" else None,
            )
            settling = (
                Settlement(delivery_id=letter.delivery_id, message_group=letter.message_group)
                if message_group_of(message)
                else None
            )
            dead_letter(bus_of(self.app), letter, settlement=settling)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported, and the message stays
            # Whatever it is: without a dead letter the broker's copy is the only one, and this worker goes on.
            record = OperationFailed(operation="dead_letter.write_failed", exception=failure)
            bus_of(self.app).instrumentation.emit(record)
            return False
        return True

    def _schedule_retry(
        self, message: ReceivedMessage, error: Exception, cause: Cause, finish: Callable[[], object]
    ) -> None:
        # After a lost connection the broker hands the message over anew, to somebody.
        if self.task_consumer and message.channel is self.task_consumer.channel and not message.acknowledged:
            self._dead_letter_and_finish(message, error, cause, finish)


def _was_started(message: ReceivedMessage) -> bool:
    """Tell whether a task of this message's was run: the solo pool runs it while the message is received."""
    task_id = read_headers(message).get("id")
    request = state.requests.get(task_id) if isinstance(task_id, str) else None
    return request is not None and request.message is message and request.time_start is not None
