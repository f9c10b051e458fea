"""STATION 1, publication: an event is checked, recorded, and sent to every subscription that matches.

    publish.delay(event)    one message to the queue `publish`; a worker does the rest. Needs the broker only; for an
                            event above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES the state store too, which takes its
                            content.
    publish(event)          the same here and now: one hop less. Needs the broker and the state store.

Both check first, in the caller: a bad event raises there, and nothing is sent. The event may be one of our classes, a
JSON object of ours, or a CloudEvent. Publishing one event twice is publishing it once: its deliveries have the same
ids, and a publication that was cut short is completed by the next one.

    publish(event, delay=3600)          it waits in the broker, and in no worker, until its time has come
    publish.delay(event, at=tomorrow)

Inside a handler `publish(event)` holds the event back until the handler has succeeded; `now=True` does not wait.
What a shadow says is held back in every case, and never leaves.

Once the system was shut down (error_channel.py), publishers outside handlers are refused with SystemStopping until a
worker is started again; what handlers say that still run is published, and so is what is said of errors and lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from celery import uuid
from celery.exceptions import Reject
from redis.exceptions import RedisError

from petiole.events.errors import (
    BrokerUnavailable,
    InvalidSchedule,
    PayloadUnreadable,
    QueueFull,
    StateStoreUnavailable,
    UsageError,
)
from petiole.events.event import Event
from petiole.tasks.broker.producer import sending
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK, lane
from petiole.tasks.handling.current import CurrentDelivery, current_context
from petiole.tasks.operations.history_replay import replay_number
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import Publication, check_open, dispatch
from petiole.tasks.publishing.delayed import publication
from petiole.tasks.publishing.document import Admitted, Document, broker_priority, read
from petiole.tasks.publishing.validation import checked
from petiole.tasks.runtime import BusRuntime, BusTask
from petiole.tasks.settlement import settlement
from petiole.tasks.settlement.dead_lettering import cause_of
from petiole.tasks.settlement.retry_policy import LONGEST_WAIT, RetryPolicy
from petiole.tasks.settlement.settlement import received
from petiole.tasks.stores.delayed_messages import Waiting

if TYPE_CHECKING:
    from celery.result import AsyncResult

MANY = 100
"""Events that `publish_many` sends in one step; Redis does nothing else meanwhile."""

WHEN_FULL = RetryPolicy(max_attempts=10)
"""How often a worker tries to publish for a service where a queue has no room, before the event is a dead letter."""

Item = TypeVar("Item")

_PASS_WHILE_STOPPING = ("system", "agent", "error")

_ASKED_EVERY_S = 1.0
"""How long `publish.delay` goes by what it knows of a shutdown: it compares no version with anybody."""


class Publish(BusTask):
    """The task and the function: see the module."""

    name = PUBLISH_TASK
    Request = "petiole.tasks.consuming.request:PublishRequest"
    _asked_at = float("-inf")

    def run(
        self,
        event: Event | Document,
        *,
        now: bool = False,
        delay: float | timedelta | None = None,
        at: datetime | str | None = None,
    ) -> Publication:
        """Publish here and now, or hold back inside a handler. Safe to repeat.

        With `delay` (seconds) or `at`, it is published then, to those who subscribe then; an event waits once, and the
        first to be told decides. Raises: UsageError (unknown_event_type, event_too_large), InvalidEvent,
        InvalidSchedule, BrokerUnavailable (PublishOutcomeUnknown), QueueFull.
        """
        due = due_time(delay, at)
        context = current_context()
        if context is None:
            directly = self.request.called_directly
            if not directly:
                return self._for_a_service(event, due)
            admitted = checked(self.bus, event)
            return _published(self.bus, admitted, due, is_refusable=_is_refusable(admitted))
        if now and due is None and not context.subscription.shadow:
            return dispatch(context.bus, [_emitted(context, event)])[0]
        return hold(context, event, due)

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Check the event, then send it to the queue `publish`; also inside a handler, without waiting for its end.

        Raises as `run`.
        """
        said = dict(kwargs or {})
        event = args[0] if args else said["event"]
        due = due_time(said.get("delay", options.pop("countdown", None)), said.get("at", options.pop("eta", None)))
        context = current_context()
        if context and context.subscription.shadow:
            hold(context, event, due)
            return self.AsyncResult(options.get("task_id") or uuid())
        admitted = _emitted(context, event) if context else checked(self.bus, event)
        self.bus.require_broker()
        if context is None and _is_refusable(admitted):
            self._check_open(admitted.event)
        priority, driver = admitted.event.priority, self.bus.driver
        options.setdefault("queue", lane(PUBLISH_QUEUE, priority, driver))
        options.setdefault("priority", broker_priority(priority, driver))
        options.setdefault("argsrepr", admitted.event.event_type)
        claim_check.store(self.bus, [admitted])
        with sending(self.bus, f"publishing {admitted.event.event_type}") as outlet:
            timing = {"at": due.isoformat()} if due else {}
            return outlet.send(super().apply_async, (admitted.travelling,), timing, **options)

    def _check_open(self, event: Event) -> None:
        # On other brokers a service may have no state store; what it sends waits for the next start.
        if self.bus.publishes_in_one_step:
            is_time = time.monotonic() - self._asked_at >= _ASKED_EVERY_S
            check_open(self.bus, f"publishing {event.event_type}", asks=is_time)
            self._asked_at = time.monotonic() if is_time else self._asked_at

    def _for_a_service(self, event: Event | Document, due: datetime | None) -> Publication:
        """Do what `publish.delay` asked for. What cannot be published becomes a dead letter: nobody waits for it."""
        run = received(self.bus, self.request, task=PUBLISH_TASK, queue=PUBLISH_QUEUE, document=event)
        try:
            admitted = checked(self.bus, event)
        except (BrokerUnavailable, StateStoreUnavailable) as error:
            raise Reject(error, requeue=True) from error
        except (UsageError, PayloadUnreadable) as error:
            settlement.give_up(settlement.begin(run), error, cause_of(error))
            raise
        try:
            published = _published(self.bus, admitted, due)
            if run.letter_id is not None:
                self.bus.stores.dead_letters.resolve(run.letter_id, replay_number(run.replay_id))
        except (BrokerUnavailable, StateStoreUnavailable, RedisError) as error:
            raise Reject(error, requeue=True) from error
        except (UsageError, QueueFull) as error:
            said = admitted.event
            settlement.fail(settlement.begin(run), error, WHEN_FULL, event=said, priority=said.priority)
        return published


def hold(context: CurrentDelivery, event: Event | Document, due: datetime | None = None) -> Publication:
    """Keep an event of a handler's until the handler has succeeded.

    Raises UsageError for one that cannot be published.
    """
    admitted = _emitted(context, event)
    if due is None:
        context.outbox.held.append(admitted)
    else:
        context.outbox.later.append(_waiting(context.bus, admitted, due))
    return Publication(admitted.event, was_held=True, due=due)


def due_time(delay: float | timedelta | None, at: datetime | str | None) -> datetime | None:
    """Tell when an event is to be published; None is now. Raises InvalidSchedule."""
    if delay is None and at is None:
        return None
    if delay is not None and at is not None:
        raise InvalidSchedule("publish", "both delay and at are given")
    due = _after(delay) if delay is not None else _moment(at)
    if due > datetime.now(UTC) + LONGEST_WAIT:
        raise InvalidSchedule("publish", f"{due.isoformat()} is more than {LONGEST_WAIT.days} days ahead")
    return due


def _after(delay: object) -> datetime:
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= LONGEST_WAIT.total_seconds():
        raise InvalidSchedule("publish", f"delay={delay!r} is no number of seconds from 0 to {LONGEST_WAIT.days} days")
    return datetime.now(UTC) + timedelta(seconds=delay)


def _moment(at: object) -> datetime:
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError as error:
        raise InvalidSchedule("publish", f"at={at!r} is no time") from error
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidSchedule("publish", f"at={at!r} is no time with a zone")
    return moment


def _published(bus: BusRuntime, admitted: Admitted, due: datetime | None, *, is_refusable: bool = False) -> Publication:
    if due is None or due <= datetime.now(UTC):
        return dispatch(bus, [admitted], is_refusable=is_refusable)[0]
    dispatch(bus, [], is_refusable=is_refusable, waiting=[_waiting(bus, admitted, due)])
    return Publication(admitted.event, due=due)


def _waiting(bus: BusRuntime, admitted: Admitted, due: datetime) -> Waiting:
    return publication(bus, admitted, due)


def publish_many(bus: BusRuntime, events: Iterable[Event | Document]) -> list[Publication]:
    """Publish several events at once, in order; each as `publish` would, at a fraction of the cost.

    All are checked before the first is sent. Safe to repeat as a whole. Raises as `publish`.
    """
    context = current_context()
    if context is not None:
        return [hold(context, event) for event in events]
    admitted = [checked(bus, event) for event in events]
    is_refusable = any(_is_refusable(each) for each in admitted)
    batches = batched(admitted, MANY)
    return [publication for batch in batches for publication in dispatch(bus, batch, is_refusable=is_refusable)]


def _is_refusable(admitted: Admitted) -> bool:
    return admitted.event.event_type.partition(".")[0] not in _PASS_WHILE_STOPPING


def _emitted(context: CurrentDelivery, event: Event | Document) -> Admitted:
    said = (
        event if isinstance(event, Event) else read(claim_check.whole(context.bus, event), context.bus.event_registry)
    )
    return checked(context.bus, context.emitted(said))


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most that size. The standard library has it from Python 3.12 on."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
