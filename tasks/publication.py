"""STATION 1, publication: an event is checked, recorded, and sent to every subscription that matches.

    publish.delay(event)    one message to the queue `publish`; a worker does the rest. Needs the broker only; for an
                            event above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES the state store too, which takes its
                            content.
    publish(event)          the same here and now: one hop less. Needs the broker and the state store.
    await publish.aio(event)    as `publish(event)`, without blocking the asyncio loop

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

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
from petiole.tasks.broker.messages import replay_number
from petiole.tasks.broker.producer import sending
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK, broker_priority, lane
from petiole.tasks.handling.buffering import emitted, hold
from petiole.tasks.handling.current import current_context
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import Publication, check_open, dispatch
from petiole.tasks.publishing.delayed import publication
from petiole.tasks.publishing.document import Admitted, Document
from petiole.tasks.publishing.threads import run_in_thread
from petiole.tasks.publishing.validation import checked
from petiole.tasks.runtime import BusRuntime, BusTask
from petiole.tasks.settlement import settlement
from petiole.tasks.settlement.dead_lettering import cause_of
from petiole.tasks.settlement.retry_policy import LONGEST_WAIT, RetryPolicy
from petiole.tasks.settlement.settlement import received
from petiole.tasks.stores.delayed_messages import Waiting

if TYPE_CHECKING:
    from celery.canvas import Signature
    from celery.result import AsyncResult

MANY = 100
"""Events that `publish_many` sends in one step; Redis does nothing else meanwhile."""

WHEN_FULL = RetryPolicy(max_attempts=10)
"""How often a worker tries to publish for a service where a queue has no room, before the event is a dead letter."""

Delay: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

PublishTime: TypeAlias = datetime | str
"""A time with its zone; as text, in ISO 8601."""

Item = TypeVar("Item")

_PASS_WHILE_STOPPING = ("system", "agent", "error")

_ASKED_EVERY_S = 1.0
"""How long `publish.delay` goes by what it knows of a shutdown: it compares no version with anybody."""


class Publish(BusTask):
    """Publish an event, here and now; inside a handler, once the handler has succeeded. Safe to repeat.

        publish(event)                    publish(event, delay=3600)            publish(event, at=tomorrow)
        await publish.aio(event)          the same, and the asyncio loop goes on meanwhile
        publish.delay(event)              one message to the broker; a worker publishes

    `event` is an event, its JSON object, or a CloudEvent. With `delay` (seconds) or `at`, it is published then, to
    those who subscribe then; an event waits once, and the first call decides. `now=True`, inside a handler, does not
    wait for the handler's success.

    Raises: Misuse (UnknownEventType, InvalidEvent, EventTooLarge, InvalidMoment), BrokerUnavailable
    (PublicationUncertain), QueueFull. Then nothing was published, but for PublicationUncertain.
    """

    name = PUBLISH_TASK
    Request = "petiole.tasks.consuming.request:PublishRequest"
    _asked_at = float("-inf")

    if TYPE_CHECKING:
        # For type checkers only: Celery runs a task that has a `__call__` of its own by a slower path.
        def __call__(
            self,
            event: Event | Document,
            *,
            now: bool = False,
            delay: Delay | None = None,
            at: PublishTime | None = None,
        ) -> Publication: ...

        def s(
            self, event: Event | Document = ..., *, delay: Delay | None = None, at: PublishTime | None = None
        ) -> Signature[Any]: ...

        def si(
            self, event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
        ) -> Signature[Any]: ...

    def run(
        self, event: Event | Document, *, now: bool = False, delay: Delay | None = None, at: PublishTime | None = None
    ) -> Publication:
        """Publish, for who calls and for who has called `publish.delay`. See the class."""
        if current_context() is None and not self.request.called_directly:
            return self._for_a_service(event, due_time(delay, at))
        prepared = self._prepare(event, now=now, due=due_time(delay, at))
        return prepared if isinstance(prepared, Publication) else prepared()

    async def aio(
        self, event: Event | Document, *, now: bool = False, delay: Delay | None = None, at: PublishTime | None = None
    ) -> Publication:
        """Publish as `publish(event)` does, here and now, without blocking the asyncio loop. Safe to repeat.

        A few threads publish for all loops of a process. While the broker stalls, other coroutines run. Cancelled, the
        call may or may not have published the event; publishing the same event again is harmless.

        Raises as `publish`; BrokerUnavailable also where no thread is free and no publish has succeeded for 10 s.
        """
        prepared = self._prepare(event, now=now, due=due_time(delay, at))
        if isinstance(prepared, Publication):
            return prepared
        topic = event.event_type if isinstance(event, Event) else "a document"
        return await run_in_thread(prepared, f"publishing {topic}")

    def _prepare(
        self, event: Event | Document, *, now: bool, due: datetime | None
    ) -> Publication | Callable[[], Publication]:
        """Hold an event back inside a handler; else return the call that publishes it, which blocks."""
        context = current_context()
        if context is None:
            return partial(self._publish, event, due)
        if not now or due is not None or context.subscription.shadow:
            return hold(context, event, due)
        # In the caller, not in the call: an event's id follows from its place among those of its handler.
        admitted = emitted(context, event)
        return lambda: dispatch(context.bus, [admitted])[0]

    def _publish(self, event: Event | Document, due: datetime | None) -> Publication:
        admitted = checked(self.bus, event)
        return _published(self.bus, admitted, due, is_refusable=_is_refusable(admitted))

    def delay(
        self, event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
    ) -> AsyncResult[Any]:
        """Check the event, then send it to the queue `publish`, from which a worker publishes it.

        It leaves at once, also inside a handler. Raises as `publish`.
        """
        return self.apply_async((event,), {"delay": delay, "at": at})

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self,
        args: tuple[Event | Document] | tuple[()] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Delay | None = None,
        eta: PublishTime | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Do what `delay` does, with Celery's options; `countdown` and `eta` are `delay` and `at`."""
        event, due = _arguments(*(args or ()), **{"delay": countdown, "at": eta, **(kwargs or {})})
        context = current_context()
        if context and context.subscription.shadow:
            hold(context, event, due)
            return self.AsyncResult(options.get("task_id") or uuid())
        admitted = emitted(context, event) if context else checked(self.bus, event)
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


def _arguments(
    event: Event | Document, *, delay: Delay | None = None, at: PublishTime | None = None
) -> tuple[Event | Document, datetime | None]:
    """Read what `publish.delay` was given. Raises TypeError for arguments that it does not have."""
    return event, due_time(delay, at)


def due_time(delay: Delay | None, at: PublishTime | None) -> datetime | None:
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


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most that size. The standard library has it from Python 3.12 on."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
