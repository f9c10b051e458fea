"""Endings: how a run ends, whatever it ran.

    handled     what it said is published, and the delivery is marked
    retrying    it failed, and comes again after a while (retries.py decides)
    put off     it comes again after a while, and no attempt was spent
    buried      it failed for good, and is kept as a dead letter
    put back    nothing could be noted of its end: the broker keeps the message

Each is one step where the broker and the state store are the same Redis, and the message is acknowledged in that step.
Elsewhere the end is noted first, and the acknowledgement follows: a crash in between repeats the run.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Reject, Retry
from redis.exceptions import RedisError

from petiole.events.dead_letter import Attempt, Cause
from petiole.events.errors import BrokerUnavailable, LeaseLost, StateStoreUnavailable, error_type_of
from petiole.events.event import Event
from petiole.tasks.broker.messages import DEAD_LETTER_HEADER, MAILBOX_HEADER, REPLAY_HEADER, replay_number
from petiole.tasks.instrumentation import (
    DeliveryDeferred,
    DeliveryLeaseLost,
    DeliveryRecord,
    DeliveryRetrying,
    OperationFailed,
)
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.delayed import waiting
from petiole.tasks.publishing.document import Admitted
from petiole.tasks.settlement import deduplication
from petiole.tasks.settlement.dead_lettering import bury, letter_of
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.retry_policy import Again, GiveUp, PutOff, RetryPolicy, verdict
from petiole.tasks.stores.attempts import Begun
from petiole.tasks.stores.delayed_messages import Waiting
from petiole.tasks.stores.publications import Lease, Settling
from petiole.tasks.transport.consumer_id import ADMITTED_HEADER, LEASE_HEADER

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

PAUSE_S = 0.5
"""How long a slot holds a message that the broker is to keep."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task message: what this worker received, and what is known of earlier runs."""

    bus: BusRuntime = field(repr=False)
    delivery_id: str
    task: str
    queue: str
    document: object
    worker: str = ""
    mailbox: str | None = None
    replay_id: str | None = None
    letter_id: str | None = None
    lease: Lease | None = None
    admitted_at: float | None = None
    begun: Begun = field(default_factory=Begun)

    def emit(self, record: type[DeliveryRecord], **facts: object) -> None:
        """Tell the listeners what happened to this delivery."""
        document = self.document if isinstance(self.document, Mapping) else {}
        named = ("event_type", "event_id", "stream_id", "correlation_id")
        event = {name: str(document[name]) for name in named if name in document}
        delivery = {"delivery_id": self.delivery_id, "subscription": self.task}
        self.bus.instrumentation.emit(record(**delivery, **event, **facts))  # type: ignore[arg-type]  # as named

    @property
    def settling(self) -> Settling:
        """Say that the delivery is over."""
        return Settling(
            delivery_id=self.delivery_id,
            mailbox=self.mailbox,
            lease=self.lease,
            resolves=self.letter_id,
            replay_number=replay_number(self.replay_id),
        )


def received(bus: BusRuntime, request: Any, *, task: str, queue: str, document: object) -> Run:
    """Make the run of a task request of Celery's."""
    holder = request.get(LEASE_HEADER)
    tag = (request.get("properties") or {}).get("delivery_tag")
    return Run(
        bus,
        str(request.id),
        task,
        queue,
        document,
        worker=str(request.hostname or ""),
        mailbox=request.get(MAILBOX_HEADER),
        replay_id=request.get(REPLAY_HEADER),
        letter_id=request.get(DEAD_LETTER_HEADER),
        lease=Lease(tag, holder) if holder and tag else None,
        admitted_at=request.get(ADMITTED_HEADER) if holder and tag else None,
    )


def begin(run: Run, *, work: tuple[str, str] | None = None) -> Run:
    """Note that the run begins; returns it with what is known of earlier ones. Raises Reject where nobody can tell.

    `work` is the agent and the flow, where it may have been aborted.
    """
    if run.admitted_at is not None:
        if run.bus.resource(deduplication.Known).holds(run.admitted_at):
            return run
        if run.bus.resource(deduplication.Known).has_ended(run.delivery_id):
            return replace(run, begun=Begun(is_settled=True))
    stores, lease = run.bus.stores, run.lease
    try:
        begun = stores.attempts.begin(
            run.delivery_id,
            run.worker,
            holder=lease.holder if lease else "",
            holders_key=stores.held.holders if lease and run.bus.publishes_in_one_step else "",
            most_deaths=run.bus.settings.max_delivery_crashes,
            work=work,
        )
    except RedisError as error:
        put_back(run, error)
    return replace(run, begun=begun)


def recalled(run: Run) -> Run:
    """Return a run that has begun, elsewhere, with what is known of those before it."""
    noted = run.bus.stores.attempts.of(run.delivery_id)
    return replace(run, begun=Begun(noted[:-1]))


def settle(
    run: Run,
    said: Sequence[Admitted] = (),
    later: Sequence[Waiting] = (),
    *,
    state: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Publish what a run said, keep what its agent set, and end its delivery.

    Raises Reject where the broker is away, QueueFull.
    """
    try:
        settling = replace(run.settling, agent=run.queue, state=state) if state else run.settling
        dispatch(run.bus, said, settling=settling, waiting=later)
    except LeaseLost as lost:
        run.emit(DeliveryLeaseLost, error=str(lost))
        return Outcome.LEASE_LOST
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        put_back(run, error)
    return Outcome.HANDLED


def ends_with_ack(run: Run) -> bool:
    """Tell whether the message's acknowledgement marks the delivery: where nothing else is to be done at its end."""
    return run.admitted_at is not None and not (run.mailbox or run.replay_id or run.letter_id)


def fail(
    run: Run, error: Exception, policy: RetryPolicy, *, event: Event, priority: int, is_told: bool = True
) -> NoReturn:
    """End a run that failed: it comes again, or is buried. Raises Retry, the error itself, or Reject."""
    match verdict(policy, error, run.begun.number, random.random()):  # noqa: S311 - no secret
        case Again(after):
            _come_again(run, error, after, event, priority, is_attempt=True)
        case PutOff(after):
            _come_again(run, error, after, event, priority, is_attempt=False)
        case GiveUp(cause):
            _give_up(
                run, error, cause, event=event, is_told=is_told, attempts=(*run.begun.earlier, _failed(run, error))
            )
    raise error


def give_up(run: Run, error: Exception, cause: Cause, *, event: Event | None = None, is_told: bool = True) -> None:
    """Bury the delivery of a run that no handler saw. Raises Reject where the letter cannot be kept."""
    _give_up(run, error, cause, event=event, is_told=is_told, attempts=run.begun.earlier)


def _give_up(
    run: Run, error: Exception, cause: Cause, *, event: Event | None, is_told: bool, attempts: Sequence[Attempt]
) -> None:
    letter = letter_of(
        run.bus,
        error,
        cause,
        delivery_id=run.delivery_id,
        subscription=run.task,
        queue=run.queue,
        document=run.document,
        attempts=attempts,
        letter_id=run.letter_id,
        mailbox=run.mailbox,
    )
    try:
        bury(run.bus, letter, event=event, settling=run.settling, is_told=is_told)
    except LeaseLost as lost:
        run.emit(DeliveryLeaseLost, error=str(lost))
    except (RedisError, BrokerUnavailable, StateStoreUnavailable) as unwritten:
        put_back(run, unwritten)


def put_back(run: Run, error: Exception) -> NoReturn:
    """Leave the message with the broker, as if the run had not been. Raises Reject."""
    try:
        run.bus.stores.attempts.withdraw(run.delivery_id)
    except RedisError as unnoted:
        # It looks as if the worker had died, until a run of the same delivery ends.
        failed = OperationFailed(operation="attempt.withdraw_failed", exception=unnoted, delivery_id=run.delivery_id)
        run.bus.instrumentation.emit(failed)
    # The next try is not this instant's: what is wrong is the broker, and it is taken again at once.
    time.sleep(PAUSE_S)
    raise Reject(error, requeue=True) from error


def _come_again(
    run: Run, error: Exception, after: timedelta, event: Event, priority: int, *, is_attempt: bool
) -> NoReturn:
    due = datetime.now(UTC) + after
    again = waiting(
        run.bus,
        run.task,
        json.dumps(run.document, ensure_ascii=False),
        item_id=run.delivery_id,
        task_id=run.delivery_id,
        due=due,
        queue=run.queue,
        priority=priority,
        shown=event.event_type,
        retries=run.begun.number if is_attempt else run.begun.number - 1,
        headers={MAILBOX_HEADER: run.mailbox, REPLAY_HEADER: run.replay_id, DEAD_LETTER_HEADER: run.letter_id},
        replaces=True,
    )
    settling = replace(
        run.settling,
        ending="retrying" if is_attempt else "put_off",
        failed=_failed(run, error) if is_attempt else None,
        waiting=again,
    )
    try:
        dispatch(run.bus, [], settling=settling)
    except LeaseLost as lost:
        run.emit(DeliveryLeaseLost, error=str(lost))
    except (BrokerUnavailable, StateStoreUnavailable) as unnoted:
        put_back(run, unnoted)
    record = DeliveryRetrying if is_attempt else DeliveryDeferred
    run.emit(record, attempt=run.begun.number, error=str(error), due=due)
    # How Celery calls it: the task is seen as retried, and its message is acknowledged.
    raise Retry(exc=error, when=due) from error


def _failed(run: Run, error: Exception) -> Attempt:
    return Attempt(at=datetime.now(UTC), worker=run.worker, error_type=error_type_of(error), error=str(error))
