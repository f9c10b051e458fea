"""Publish an event: validate it, record it, and send it to every subscription that matches.

    publish(event)              publish now. Needs the broker and the state store.
    await publish.aio(event)    the same, without blocking the asyncio loop
    publish.delay(event)        send the event to the queue `publish`; a worker publishes it. Needs the broker, and the
                                state store for an event above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES.

Each validates in the caller: an invalid event raises there, and nothing is sent. The event may be an instance of an
event class, its JSON object, or a CloudEvent. Publishing is idempotent: a repeat has the same delivery ids, and it
completes a publication that was interrupted.

    publish(event, delay=3600)          the event waits in the broker, and in no worker's memory, until it is due
    publish.delay(event, at=tomorrow)

Inside a handler, `publish(event)` buffers the event until the handler has succeeded; `now=True` publishes at once.
Events published by a shadow handler are captured for comparison and never published.

After a shutdown of the system (tasks/operations/error_channel.py), publishing outside handlers raises SystemStopping
until a worker is started again. Handlers that still run can publish, and so can errors and lifecycle events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from celery import uuid
from celery.exceptions import Reject
from redis.exceptions import RedisError

from petiole.events.errors import (
    BrokerUnavailable,
    InvalidSchedule,
    PayloadUnreadable,
    PetioleError,
    QueueFull,
    StateStoreUnavailable,
    UsageError,
    invalid_option,
)
from petiole.events.errors.base import describe
from petiole.events.event import Event
from petiole.events.texts import safe_text
from petiole.tasks.broker.messages import replay_number
from petiole.tasks.broker.producer import open_producer
from petiole.tasks.broker.topology import (
    PUBLISH_QUEUE,
    PUBLISH_TASK,
    VALIDATED_HEADER,
    broker_priority,
    broker_queue,
)
from petiole.tasks.handling.buffering import buffer, prepare_emitted
from petiole.tasks.handling.current import current_context, current_publisher
from petiole.tasks.instrumentation import PublishFailed
from petiole.tasks.instrumentation.tracing import end_publishing
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import Publication, commit, require_accepting
from petiole.tasks.publishing.delayed import delay_publication
from petiole.tasks.publishing.document import Document, ValidatedEvent, parse_event, read_event
from petiole.tasks.publishing.schema_check import compare_publisher
from petiole.tasks.publishing.threads import run_in_thread
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime, BusTask
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.retry_policy import MAX_WAIT, RetryPolicy

if TYPE_CHECKING:
    from celery.canvas import Signature
    from celery.result import AsyncResult

PUBLISH_BATCH_SIZE = 100
"""Events that `publish_many` sends in one script call; Redis serves no other client during it."""

QUEUE_FULL_ATTEMPTS = 10
"""How often a worker tries to publish an event of `publish.delay` to a full queue, before it becomes a dead letter."""

Delay: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

PublishTime: TypeAlias = datetime | str
"""A time with its zone, as a datetime or as ISO 8601 text."""

ItemT = TypeVar("ItemT")

_ALLOWED_WHILE_STOPPING = ("system", "agent", "error")

_STATE_CHECK_INTERVAL_S = 1.0
"""How long `publish.delay` relies on its last check for a shutdown; it does not compare the directory's version."""


class PublishTask(BusTask):
    """Publish an event now; inside a handler, after the handler has succeeded. Safe to repeat.

        publish(event)                    publish(event, delay=3600)            publish(event, at=tomorrow)
        await publish.aio(event)          the same, without blocking the asyncio loop
        publish.delay(event)              send one message to the broker; a worker publishes the event

    Args:
        event: an event, its JSON object, or a CloudEvent.
        now: inside a handler, publish at once instead of after the handler's success.
        delay: publish after this time, to the subscriptions of then. A delayed event is stored once: the first call
            sets the time.
        at: publish at this time, as `delay`.

    Raises:
        UsageError: the event cannot be published (unknown_event_type, event_too_large); InvalidEvent, InvalidSchedule.
        SystemStopping, NotConfigured, BrokerUnavailable, StateStoreUnavailable, QueueFull: nothing was published.
        PublishOutcomeUnknown: the connection was lost; the event may have been published.
    """

    name = PUBLISH_TASK
    Request = "petiole.tasks.consuming.request:PublishRequest"
    _state_checked_at = float("-inf")

    def __call__(
        self, event: Event | Document, *, now: bool = False, delay: Delay | None = None, at: PublishTime | None = None
    ) -> Publication:
        """Publish now: `run`, without Celery's preparations for a task that is called as a function."""
        return self.run(event, now=now, delay=delay, at=at)

    if TYPE_CHECKING:

        def s(
            self, event: Event | Document = ..., *, delay: Delay | None = None, at: PublishTime | None = None
        ) -> Signature[Any]: ...

        def si(
            self, event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
        ) -> Signature[Any]: ...

    def run(
        self, event: Event | Document, *, now: bool = False, delay: Delay | None = None, at: PublishTime | None = None
    ) -> Publication:
        """Publish for the caller, or in a worker for a caller of `publish.delay`. See the class."""
        if current_context() is None and not self.request.called_directly:
            return self._run_in_worker(event, due_time(self.bus, delay, at))
        prepared = self._prepare(event, now=now, due=due_time(self.bus, delay, at))
        return prepared if isinstance(prepared, Publication) else prepared()

    async def aio(
        self, event: Event | Document, *, now: bool = False, delay: Delay | None = None, at: PublishTime | None = None
    ) -> Publication:
        """Publish as `publish(event)` does, without blocking the asyncio loop. Safe to repeat.

        A few threads publish for all loops of a process, so other coroutines run while the broker stalls. A cancelled
        call may have published the event; publishing the same event again is harmless.

        Raises:
            BrokerUnavailable: no thread is free, and no publish has succeeded for 10 s. Otherwise as `publish`.
        """
        operation = f"publishing {event.event_type if isinstance(event, Event) else 'a document'}"
        due = None
        if delay is not None or at is not None:
            due = await run_in_thread(partial(due_time, self.bus, delay, at), operation)
        prepared = self._prepare(event, now=now, due=due)
        return prepared if isinstance(prepared, Publication) else await run_in_thread(prepared, operation)

    def _prepare(
        self, event: Event | Document, *, now: bool, due: datetime | None
    ) -> Publication | Callable[[], Publication]:
        """Buffer an event inside a handler; otherwise return the blocking call that publishes it."""
        context = current_context()
        if context is None:
            return partial(self._publish, event, due)
        if not now or due is not None or context.subscription.shadow:
            return buffer(context, event, due)
        # Here and not in the lambda: the event's id depends on its position among the events of its handler.
        with _reporting_failures(context.bus, event):
            validated = prepare_emitted(context, event)
        return partial(_publish_now, context.bus, validated)

    def _publish(self, event: Event | Document, due: datetime | None) -> Publication:
        compare_publisher(self.bus)
        with _reporting_failures(self.bus, event):
            validated = validate(self.bus, event, current_publisher(self.bus))
            try:
                return _publish_or_delay(self.bus, validated, due, is_refusable=_is_refusable(validated))
            except PetioleError as error:
                end_publishing(validated.span, error)
                raise

    def delay(
        self, event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
    ) -> AsyncResult[Any]:
        """Validate the event and send it to the queue `publish`; a worker publishes it.

        It is sent at once, inside a handler too. Raises as `publish`.
        """
        return self.apply_async((event,), {"delay": delay, "at": at})

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on
        self,
        args: tuple[Event | Document] | tuple[()] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Delay | None = None,
        eta: PublishTime | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send as `delay` does, with Celery's options; `countdown` and `eta` stand for `delay` and `at`."""
        event, due = _arguments(self.bus, *(args or ()), **{"delay": countdown, "at": eta, **(kwargs or {})})
        context = current_context()
        if context and context.subscription.shadow:
            buffer(context, event, due)
            return self.AsyncResult(options.get("task_id") or uuid())
        with _reporting_failures(self.bus, event):
            validated = (
                prepare_emitted(context, event) if context else validate(self.bus, event, current_publisher(self.bus))
            )
            return self._send(validated, due, options, is_refusable=context is None and _is_refusable(validated))

    def _send(
        self, validated: ValidatedEvent, due: datetime | None, options: dict[str, Any], *, is_refusable: bool
    ) -> AsyncResult[Any]:
        self.bus.check_addresses()
        if is_refusable:
            self._check_accepting(validated.event)
        priority, driver = validated.event.priority, self.bus.driver
        options.setdefault("queue", broker_queue(PUBLISH_QUEUE, priority, driver))
        options.setdefault("priority", broker_priority(priority, driver))
        options.setdefault("argsrepr", validated.event.event_type)
        claim_check.store_contents(self.bus, [validated])
        with open_producer(self.bus, f"publishing {validated.event.event_type}") as producer:
            timing = {"at": due.isoformat()} if due else {}
            options["headers"] = {**(options.get("headers") or {}), VALIDATED_HEADER: "1"}
            sent: AsyncResult[Any] = producer.send(super().apply_async, (validated.payload,), timing, **options)
        end_publishing(validated.span)
        return sent

    def _check_accepting(self, event: Event) -> None:
        # With other brokers a service may have no state store; its events wait in the queue for the next start.
        if self.bus.publishes_atomically:
            is_time = time.monotonic() - self._state_checked_at >= _STATE_CHECK_INTERVAL_S
            require_accepting(self.bus, f"publishing {event.event_type}", is_forced=is_time)
            self._state_checked_at = time.monotonic() if is_time else self._state_checked_at

    def _read(self, document: object, *, is_validated: bool) -> Event:
        """Read an event. If its sender has validated it, unknown fields are kept."""
        complete, registry = claim_check.restore_content(self.bus, document), self.bus.event_registry
        return read_event(complete, registry) if is_validated else parse_event(complete, registry)

    def _run_in_worker(self, event: Event | Document, due: datetime | None) -> Publication:
        from petiole.tasks.settlement.outcomes import DeadLettered

        try:
            # A worker ignores the result, which may be that the event was parked.
            return cast("Publication", self._run_for_client(event, due))
        except DeadLettered as ended:
            error = ended.error
        vars(self.request)["is_failure_logged"] = True  # read by tasks/consuming/direct.py
        raise error

    def _run_for_client(self, event: Event | Document, due: datetime | None) -> Publication | Outcome:
        """Publish for a caller of `publish.delay`. No caller waits, so an event that fails becomes a dead letter."""
        from petiole.tasks.settlement import failures, parking, settlement
        from petiole.tasks.settlement.dead_lettering import cause_of

        attempt = settlement.build_attempt(
            self.bus, self.request, task=PUBLISH_TASK, queue=PUBLISH_QUEUE, document=event
        )
        is_validated = bool(self.request.get(VALIDATED_HEADER))
        try:
            read = self._read(event, is_validated=is_validated)
            validated = validate(self.bus, read, self.bus.trust.admit(read, event))
        except (BrokerUnavailable, StateStoreUnavailable) as error:
            raise Reject(error, requeue=True) from error
        except (UsageError, PayloadUnreadable) as error:
            if is_validated and (parked := parking.park(attempt, error, due=due)):
                return parked
            failures.dead_letter_unhandled(settlement.begin(attempt), error, cause_of(error))
        try:
            publication = _publish_or_delay(self.bus, validated, due)
            if attempt.letter_id is not None:
                self.bus.stores.dead_letters.resolve(attempt.letter_id, replay_number(attempt.replay_id))
        except (BrokerUnavailable, StateStoreUnavailable, RedisError) as error:
            raise Reject(error, requeue=True) from error
        except (UsageError, QueueFull) as error:
            event = validated.event
            retry = RetryPolicy(max_attempts=QUEUE_FULL_ATTEMPTS)
            failures.settle_failure(settlement.begin(attempt), error, retry, event=event, priority=event.priority)
        return publication


def _arguments(
    bus: BusRuntime, event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
) -> tuple[Event | Document, datetime | None]:
    """Bind the arguments of `publish.delay`. Raises TypeError for unknown ones."""
    return event, due_time(bus, delay, at)


def due_time(bus: BusRuntime, delay: Delay | None, at: PublishTime | None) -> datetime | None:
    """Return when an event is to be published, by the server's clock; None stands for now. Raises InvalidSchedule."""
    if delay is None and at is None:
        return None
    if delay is not None and at is not None:
        raise InvalidSchedule("publish", "both delay and at are given")
    now = bus.now()
    due = now + _read_delay(delay) if delay is not None else _due_at(at)
    if due > now + MAX_WAIT:
        raise InvalidSchedule("publish", f"{due.isoformat()} is more than {MAX_WAIT.days} days ahead")
    return due


def _read_delay(delay: object) -> timedelta:
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MAX_WAIT.total_seconds():
        raise InvalidSchedule("publish", f"delay={describe(delay)} must be seconds, from 0 to {MAX_WAIT.days} days")
    return timedelta(seconds=delay)


def _due_at(at: object) -> datetime:
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError as error:
        raise InvalidSchedule("publish", f"at={describe(at)} is not a time in ISO 8601") from error
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidSchedule("publish", f"at={describe(at)} must be a time with a zone")
    return moment


def _publish_or_delay(
    bus: BusRuntime, validated: ValidatedEvent, due: datetime | None, *, is_refusable: bool = False
) -> Publication:
    if due is None or due <= bus.now():
        return commit(bus, [validated], is_refusable=is_refusable)[0]
    commit(bus, [], is_refusable=is_refusable, delayed=[delay_publication(bus, validated, due)])
    return Publication(validated.event, due=due)


def publish_many(bus: BusRuntime, events: Iterable[Event | Document]) -> list[Publication]:
    """Publish several events in order, at a fraction of the cost of separate calls.

    All are validated before the first is sent. Safe to repeat as a whole. Raises as `publish`.
    """
    if isinstance(events, Event | Mapping | str | bytes) or not isinstance(events, Iterable):
        raise invalid_option("publish_many.events", events, "give a list of events")
    context = current_context()
    if context is not None:
        return [buffer(context, event) for event in events]
    compare_publisher(bus)
    validated_events = []
    for event in events:
        with _reporting_failures(bus, event):
            validated_events.append(validate(bus, event, current_publisher(bus)))
    is_refusable = any(_is_refusable(validated) for validated in validated_events)
    publications: list[Publication] = []
    for batch in batched(validated_events, PUBLISH_BATCH_SIZE):
        with _reporting_failures(bus, *(validated.event for validated in batch)):
            publications += commit(bus, batch, is_refusable=is_refusable)
    return publications


def _publish_now(bus: BusRuntime, validated: ValidatedEvent) -> Publication:
    with _reporting_failures(bus, validated.event):
        return commit(bus, [validated])[0]


@contextmanager
def _reporting_failures(bus: BusRuntime, *events: Event | Document) -> Iterator[None]:
    """Emit a record for each event that could not be published."""
    try:
        yield
    except PetioleError as error:
        if bus.instrumentation.wants(PublishFailed):
            for event in events:
                failed = PublishFailed(event_type=_known_type(bus, event), error=safe_text(error))
                bus.instrumentation.emit(failed)
        raise


def _known_type(bus: BusRuntime, event: object) -> str:
    """Return the type of an event, or "unknown": a refused document may have any text in its place."""
    document = event if isinstance(event, Mapping) else {"event_type": getattr(event, "event_type", None)}
    topic = document.get("event_type", document.get("type"))
    return topic if isinstance(topic, str) and topic in bus.event_registry else "unknown"


def _is_refusable(validated: ValidatedEvent) -> bool:
    return validated.event.event_type.partition(".")[0] not in _ALLOWED_WHILE_STOPPING


def batched(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    """Split a sequence into batches of at most `size` items; `itertools.batched` needs Python 3.12."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
