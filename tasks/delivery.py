"""STATION 2, delivery: one event is brought to one handler.

A worker runs this for every task of every subscription, in five steps on one value:

    opened      the task message becomes a delivery: an id, a subscription, a document
    validated   the document becomes an event of its class
    admitted    it is to be handled: not handled before, in date, not in a loop
    handled     the handler runs; what it says is held back
    settled     what it said is published, and the delivery is marked as handled

Validation comes before admission, because admission decides by the event's own fields. A delivery that fails at any
step becomes a dead letter, and its task fails, so that Flower and Celery's signals see it too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery import Task
from celery.exceptions import Reject
from redis.exceptions import RedisError

from events.content import Value
from events.dead_letter import Cause, DeadLetter
from events.errors import BrokerUnavailable, HopLimitReached, Misuse, PayloadUnreadable
from events.event import Event
from tasks import payloads
from tasks.agents import Agent, Handler
from tasks.burial import bury, letter_of
from tasks.celery import EventApp
from tasks.context import Context, handling
from tasks.dispatch import dispatch
from tasks.envelopes import DEAD_LETTER_HEADER, MAILBOX_HEADER
from tasks.handlers import run_handler
from tasks.outcomes import Outcome
from tasks.replays import REPLAY_HEADER, replay_number
from tasks.stores.publications import Settling
from tasks.wire import Admitted, read

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one handler, as far as it has come."""

    id: str
    attempt: int
    handler: Handler
    document: object
    app: EventApp = field(repr=False)
    mailbox: str | None = None
    replay_id: str | None = None
    letter_id: str | None = None


class DeliveryTask(Task[..., Any]):
    """The Celery task of one subscription."""

    app: EventApp
    handler: Handler
    Strategy = "tasks.batching:strategy"

    def run(self, document: object) -> str:
        """Deliver one event; returns the outcome. Raises what the handler raised, once the dead letter is kept."""
        request = self.request
        return deliver(
            Delivery(
                id=str(request.id),
                attempt=request.retries + 1,
                handler=self.handler,
                document=document,
                app=self.app,
                mailbox=request.get(MAILBOX_HEADER),
                replay_id=request.get(REPLAY_HEADER),
                letter_id=request.get(DEAD_LETTER_HEADER),
            )
        )


def register(app: EventApp, agent: Agent) -> None:
    """Make Celery tasks of an agent's handlers."""
    for handler in agent.handlers.values():
        app.adopt(DeliveryTask, name=handler.subscription.name, handler=handler)


def deliver(delivery: Delivery) -> Outcome:
    """Walk one delivery through all steps."""
    with _burying(delivery, PayloadUnreadable, cause="payload"), _burying(delivery, Misuse, cause="invalid"):
        event = validated(delivery)
    with _burying(delivery, HopLimitReached, cause="loop", event=event):
        refusal = admitted(delivery, event)
    with _burying(delivery, Exception, cause="failed", event=event):
        outcome = refusal or settled(delivery, handled(delivery, event))
    _resolve(delivery)
    log.debug("event.delivered", extra=_facts(delivery) | {"outcome": str(outcome)})
    return outcome


def validated(delivery: Delivery) -> Event:
    """Read the event. Raises UnknownEventType, InvalidEvent or PayloadUnreadable."""
    try:
        document = payloads.whole(delivery.app, delivery.document)
    except BrokerUnavailable as error:
        # Nothing was done yet: the broker keeps the message for later.
        raise Reject(error, requeue=True) from error
    return read(document, delivery.app.event_registry)


def admitted(delivery: Delivery, event: Event) -> Outcome | None:
    """Decide whether the event is to be handled; None means yes. Raises HopLimitReached."""
    if _was_handled(delivery):
        return Outcome.DUPLICATE
    expires_at = delivery.handler.subscription.expires_at(event)
    if expires_at is not None and expires_at <= datetime.now(UTC) and delivery.replay_id is None:
        _settle(delivery, [])
        return Outcome.EXPIRED
    limit = delivery.app.settings.max_hops
    if event.hops > limit:
        raise HopLimitReached(event.event_type, event.hops, limit)
    return None


def _was_handled(delivery: Delivery) -> bool:
    try:
        return delivery.app.stores.inbox.has(delivery.id)
    except RedisError as error:
        # Nothing was done yet: the broker keeps the message for later.
        raise Reject(error, requeue=True) from error


def handled(delivery: Delivery, event: Event) -> list[Admitted]:
    """Run the handler, and return what is to be published for it. Raises as `run_handler`."""
    subscription = delivery.handler.subscription
    context = Context(event, delivery.id, subscription, delivery.attempt, delivery.app, delivery.replay_id)
    handling(context, partial(run_handler, delivery.handler, context))
    return _muted(delivery, context.outbox.held) if subscription.shadow else context.outbox.held


def settled(delivery: Delivery, held: list[Admitted]) -> Outcome:
    """Publish what the handler said, and mark the delivery: one step where the broker can, see dispatch.py."""
    _settle(delivery, held)
    return Outcome.HANDLED


def _settle(delivery: Delivery, said: Sequence[Admitted]) -> None:
    try:
        dispatch(delivery.app, said, settling=Settling(delivery.id, delivery.mailbox))
    except BrokerUnavailable as error:
        # Nothing is known of it then, or nothing was done: another run says the same under the same ids.
        raise Reject(error, requeue=True) from error


def _resolve(delivery: Delivery) -> None:
    """Note at the dead letter that this was a replay of that it was handled, now or before."""
    if delivery.letter_id is None:
        return
    try:
        delivery.app.stores.dead_letters.resolve(delivery.letter_id, replay_number(delivery.replay_id))
    except RedisError as error:
        # The delivery is marked as handled: another run finds that, and notes it then.
        raise Reject(error, requeue=True) from error


def _muted(delivery: Delivery, held: list[Admitted]) -> list[Admitted]:
    """Count what a shadow said, and drop it."""
    if held:
        delivery.app.stores.counters.add("shadowed", len(held))
    return []


@contextmanager
def _burying(
    delivery: Delivery, failure: type[Exception], *, cause: Cause, event: Event | None = None
) -> Iterator[None]:
    """Keep a dead letter of what fails in the block, and let the failure go on to Celery."""
    try:
        yield
    except Reject:
        raise
    except failure as error:
        try:
            bury(
                delivery.app,
                _letter(delivery, error, cause),
                event=event,
                settling=Settling(delivery.id, delivery.mailbox),
                # Nobody waits for a shadow, and no flow may end because of one.
                is_told=not delivery.handler.subscription.shadow,
            )
        except (RedisError, BrokerUnavailable) as unwritten:
            # Unwritten is unknown to anybody: the broker keeps the message instead.
            raise Reject(unwritten, requeue=True) from error
        raise


def _letter(delivery: Delivery, error: Exception, cause: Cause) -> DeadLetter:
    subscription = delivery.handler.subscription
    return letter_of(
        delivery.app,
        error,
        cause,
        delivery_id=delivery.id,
        subscription=subscription.name,
        queue=subscription.queue,
        document=delivery.document,
        mailbox=delivery.mailbox,
        letter_id=delivery.letter_id,
    )


def _facts(delivery: Delivery) -> dict[str, Value]:
    document = delivery.document if isinstance(delivery.document, Mapping) else {}
    return {
        "delivery_id": delivery.id,
        "subscription": delivery.handler.subscription.name,
        "event_type": str(document.get("event_type")),
        "event_id": str(document.get("event_id")),
        "stream_id": str(document.get("stream_id")),
        "correlation_id": str(document.get("correlation_id")),
    }
