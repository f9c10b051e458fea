"""The worker's consumer: dead-letter every message that cannot become a task, then acknowledge it.

Celery logs such messages and drops them; some of them end its event loop. This consumer overrides Celery's four hooks:

    on_decode_error       the body has an unknown encoding
    on_unknown_message    the message names no task
    on_unknown_task       the message names a task that this worker does not have: its agent's handlers are parked
    on_invalid_task       the message is malformed, or makes Celery raise any other error

Each hook stores a raw dead letter, publishes it on the error channel, and advances the message group. If the store is
unreachable, the message stays unacknowledged and the worker tries again every 5 s; if the worker ends, the broker
redelivers the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from amqp.exceptions import ChannelError, RecoverableConnectionError
from billiard import pool as billiard_pool
from celery import bootsteps
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import NotRegistered
from celery.worker import state
from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.dead_letter import Cause
from petiole.events.errors import UsageError
from petiole.events.texts import check_json_values
from petiole.tasks.consuming.cold_shutdown import run_cold_shutdown_in_a_thread
from petiole.tasks.consuming.direct import DirectWay
from petiole.tasks.consuming.jobs import JobQueue
from petiole.tasks.consuming.message_validation import check_size, max_body_bytes
from petiole.tasks.consuming.process_pool import (
    accept_written_jobs,
    end_without_pauses,
    forget_halted_job,
    watch_again,
)
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.runtime import BusTask, bus_of
from petiole.tasks.settlement.dead_lettering import dead_letter
from petiole.tasks.settlement.parking import park_unknown_task
from petiole.tasks.settlement.undecodable import build_raw_dead_letter, leased_settlement, read_document, read_headers
from petiole.tasks.transport.channel import BatchingChannel
from petiole.tasks.transport.decompression import limit_decompression

# Kombu's message; the stubs describe too little of it to check against.
ReceivedMessage: TypeAlias = Any

CELERY_CONTROL = "celery.worker.consumer.control:Control"

RETRY_DELAY_S = 5.0
"""How long a message waits after its dead letter could not be stored. It counts as prefetched meanwhile."""

log = logging.getLogger(__name__)

# A pool process that ends waits until the worker has read its results, by default for 30 s, in steps of 0.1 s: in vain
# if the worker ends, too, and reads no more. Kubernetes kills a worker 30 s after SIGTERM.
billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 50


class Consumer(CeleryConsumer):
    """Celery's consumer, which loses no message and survives malformed ones."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[valid-type,misc]  # the stubs leave it out
        """Celery's steps and Petiole's."""

        default_steps = (
            *(step for step in CeleryConsumer.Blueprint.default_steps if step != CELERY_CONTROL),
            "petiole.tasks.consuming.announcement:SubscriptionRegistration",
            "petiole.tasks.consuming.heartbeat:Heartbeat",
            "petiole.tasks.consuming.maintenance:WorkerJobs",
            "petiole.tasks.consuming.consumer:LeaseTakeover",
            "petiole.tasks.consuming.remote_control:RemoteControl",
        )

    app: Any
    controller: Any
    timer: Any
    task_consumer: Any
    loop: Any
    call_soon: Any
    connection_errors: Any
    channel_errors: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        limit_decompression(max_body_bytes(bus_of(self.app).settings.max_event_bytes))
        # Celery repeats the consumer's start after these. The state store may be another server than the broker, and
        # an error reply of either (tasks/stores/connections.py) is no reason to end the worker.
        self.connection_errors = (*self.connection_errors, RedisConnectionError, RedisTimeoutError, ResponseError)
        self.loop = partial(self._run_loop, self.loop)

    def _run_loop(self, run: Callable[..., None], *arguments: Any) -> None:
        """Run the event loop. A channel that the broker closes is a lost connection: Celery would end the worker.

        RabbitMQ closes the channel of a worker whose handler runs for longer than its `consumer_timeout`.
        """
        state.maybe_shutdown()  # SIGQUIT during the start has stopped the pool
        if isinstance(self.pool, ProcessPool):
            watch_again(self.pool)
        try:
            run(*arguments)
        except ChannelError as error:
            raise RecoverableConnectionError(f"the broker closed the channel: {error}") from error

    def start(self) -> None:
        """Start consuming; called once, after Celery has installed its signal handlers."""
        if not isinstance(self.pool, ProcessPool | SoloPool):
            run_cold_shutdown_in_a_thread(self.controller)
        super().start()

    def on_close(self) -> None:
        """Forget what no slot runs; called after a lost connection, and when the worker ends."""
        if isinstance(self.pool, ProcessPool):
            accept_written_jobs(self.pool)
        super().on_close()

    def cancel_active_requests(self) -> None:
        """Cancel what runs, because the worker is told to end at once. A pool that cannot do so lets it end by itself.

        Celery would raise NotImplementedError in its signal handler: in the task that runs on the main thread.
        """
        if isinstance(self.pool, ProcessPool):
            forget_halted_job(self.pool)
        if getattr(self.pool.terminate_job, "__func__", None) is not BasePool.terminate_job:
            super().cancel_active_requests()

    def stop(self) -> None:
        """Stop consuming, because the worker ends; Celery stops the pool after it."""
        super().stop()
        if isinstance(self.pool, ProcessPool):
            end_without_pauses(self.pool)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[ReceivedMessage], object]:
        """Wrap Celery's message handler, which catches only some errors, to dead-letter the message after any error."""
        receive = super().create_task_handler(*args, **options)

        def on_message(message: ReceivedMessage) -> None:
            try:
                self._check_size(message)
                receive(message)
            except MemoryError:
                raise
            except Exception as error:  # a malformed message can make Celery raise anything
                if self._is_connection_error(error):
                    raise
                if message.acknowledged:
                    log.exception("message.handling_failed")
                else:
                    self.on_invalid_task(None, message, error)

        return on_message

    def _check_size(self, message: ReceivedMessage) -> None:
        """Check a message before Celery parses it. Raises UsageError (event_too_large), or ValueError."""
        task = read_headers(message).get("task")
        if task is None:  # Celery looks for the task in the body
            check_json_values(message.body or "")
        if isinstance(task, str) and isinstance(self.app.tasks.get(task), BusTask):
            check_size(message.body, task, bus_of(self.app).settings.max_event_bytes)

    def on_decode_error(self, message: ReceivedMessage, exc: Exception) -> None:
        """Dead-letter a message that cannot be decoded."""
        self._dead_letter_and_finish(message, exc, "undecodable", partial(super().on_decode_error, message, exc))

    def on_unknown_message(self, body: object, message: ReceivedMessage) -> None:
        """Dead-letter a message that names no task."""
        error = ValueError("the message names no task")
        self._dead_letter_and_finish(message, error, "undecodable", partial(super().on_unknown_message, body, message))

    def on_unknown_task(self, body: object, message: ReceivedMessage, exc: Exception) -> None:
        """Park a message for a handler that this worker does not have; dead-letter one for another unknown task."""
        error = NotRegistered(read_headers(message).get("task"))
        finish = partial(super().on_unknown_task, body, message, exc)
        try:
            is_parked = park_unknown_task(bus_of(self.app), message)
        except Exception as failure:  # noqa: BLE001 - reported; the message stays with the broker
            record = OperationFailed(operation="delivery.park_failed", exception=failure)
            bus_of(self.app).instrumentation.emit(record)
            self._call_later(message, partial(self.on_unknown_task, body, message, exc))
            return
        if is_parked:
            message.ack()
        else:
            self._dead_letter_and_finish(message, error, "unknown_task", finish)

    def on_invalid_task(self, body: object, message: ReceivedMessage, exc: Exception) -> None:
        """Dead-letter a malformed task message."""
        cause: Cause = (
            "invalid" if isinstance(exc, UsageError) else "failed" if _was_started(message) else "undecodable"
        )
        self._dead_letter_and_finish(message, exc, cause, partial(super().on_invalid_task, body, message, exc))

    def _dead_letter_and_finish(
        self, message: ReceivedMessage, error: Exception, cause: Cause, finish: Callable[[], object]
    ) -> None:
        """Store a dead letter, then have Celery log, signal, and acknowledge or reject the message."""
        if not self._store_dead_letter(message, error, cause):
            self._call_later(message, partial(self._dead_letter_and_finish, message, error, cause, finish))
            return
        try:
            finish()
        except Exception as failure:
            if self._is_connection_error(failure):
                raise
            # Celery logs parts of the message, and malformed ones can make it raise.
            log.exception("message.handling_failed")
        if not message.acknowledged:
            message.ack()

    def _is_connection_error(self, error: Exception) -> bool:
        # Kombu lists KeyError among the connection errors of Redis, and a missing header raises KeyError too.
        connection_errors = (*self.connection_errors, *self.channel_errors)
        return isinstance(error, connection_errors) and not isinstance(error, LookupError)

    def _store_dead_letter(self, message: ReceivedMessage, error: Exception, cause: Cause) -> bool:
        try:
            letter = build_raw_dead_letter(
                bus_of(self.app),
                message,
                error,
                cause,
                document=read_document(message) if cause == "unknown_task" else None,
            )
            dead_letter(bus_of(self.app), letter, settlement=leased_settlement(message, letter.delivery_id))
        except Exception as failure:  # noqa: BLE001 - reported; the message stays with the broker
            # Without a dead letter the broker has the only copy, so the worker must continue after any error.
            record = OperationFailed(operation="dead_letter.write_failed", exception=failure)
            bus_of(self.app).instrumentation.emit(record)
            return False
        return True

    def _call_later(self, message: ReceivedMessage, function: Callable[[], object]) -> None:
        """Try again what has to be done with a message."""

        def call() -> None:
            # After a lost connection the broker redelivers the message itself.
            if self.task_consumer and message.channel is self.task_consumer.channel and not message.acknowledged:
                function()

        self.timer.call_after(RETRY_DELAY_S, self.call_soon, (call,))


class LeaseTakeover(bootsteps.StartStopStep):
    """A step of the consumer that continues its leases after a reconnection, before the first message is fetched."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._channel: BatchingChannel | None = None

    def start(self, consumer: Any) -> None:
        """Continue as the consumer of the lost connection: what the slots run stays leased."""
        channel = consumer.task_consumer.channel
        if not isinstance(channel, BatchingChannel):
            return
        channel.is_renewed, channel.running_tags = True, partial(_running_tags, consumer)
        if isinstance(consumer.pool, ProcessPool):
            channel.accept = DirectWay(consumer, JobQueue(consumer).add).accept
            channel.gives_back_waiting = True
        else:
            channel.accept = DirectWay(consumer, consumer.on_task_request).accept
            if isinstance(consumer.pool, SoloPool):
                channel.start_ack_sender()
            else:
                channel.wake_loop_by_acks()
        if self._channel is not None:
            channel.take_over(self._channel)
            # The server closed these, too; idle ones would stay half-closed until as many are used at once.
            bus_of(consumer.app).redis.connection_pool.disconnect(inuse_connections=False)
        channel.renew()
        self._channel = channel


def _running_tags(consumer: Any) -> set[str]:
    """Return the tags of the deliveries that slots run; none once the worker ends, because its slots have ended."""
    if consumer.blueprint.state in {bootsteps.CLOSE, bootsteps.TERMINATE}:  # type: ignore[attr-defined]  # not in the stubs
        return set()
    return {request.message.delivery_tag for request in tuple(state.active_requests)}


def _was_started(message: ReceivedMessage) -> bool:
    """Return whether the message's task has started: the solo pool runs it while the message is received."""
    task_id = read_headers(message).get("id")
    request = state.requests.get(task_id) if isinstance(task_id, str) else None
    return request is not None and request.message is message and request.time_start is not None
