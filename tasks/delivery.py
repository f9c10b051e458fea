"""STATION 2, delivery: one event is brought to one handler.

A worker runs this for every task of every subscription, in five steps on one value:

    opened      the task message becomes a delivery: an id, a subscription, a document
    validated   the document becomes an event of its class
    admitted    it is to be handled: not handled before, not aborted, in date, not in a loop, no killer of workers
    handled     the handler runs; what it says is held back
    settled     what it said is published, and the delivery is marked as handled; where it said nothing, its
                acknowledgement marks it (admissions.py)

Validation comes before admission, because admission decides by the event's own fields. A delivery that fails comes
again, or becomes a dead letter; its task is retried or fails, so that Flower and Celery's signals see it too. How each
run ends is in endings.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery.exceptions import Reject, Retry

from petiole.events.errors import (
    BrokerUnavailable,
    DeliveryCrashed,
    PayloadUnreadable,
    Permanent,
    StateStoreUnavailable,
    UsageError,
    event_expired,
    hop_limit_reached,
)
from petiole.events.event import Category, Event
from petiole.tasks.handler_context import Context
from petiole.tasks.handling.current import handling
from petiole.tasks.handling.handler import Handler
from petiole.tasks.handling.invocation import run_handler
from petiole.tasks.instrumentation import DeliveryFinished
from petiole.tasks.patterns import shadow_traffic
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import read
from petiole.tasks.runtime import BusRuntime, BusTask
from petiole.tasks.settlement import deduplication, settlement
from petiole.tasks.settlement.dead_lettering import cause_of
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.settlement import Run, received


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one handler, as far as it has come."""

    run: Run
    handler: Handler

    @property
    def bus(self) -> BusRuntime:
        """The bus that it travels on."""
        return self.run.bus


class DeliveryTask(BusTask):
    """The Celery task of one subscription."""

    handler: Handler
    Strategy = "petiole.tasks.consuming.batching:strategy"
    Request = "petiole.tasks.consuming.request:TaskRequest"

    def run(self, document: object) -> str:
        """Deliver one event; returns the outcome. Raises Retry where it comes again, else what the handler raised."""
        return deliver(opened(self, self.request, document))


def deliver(delivery: Delivery) -> Outcome:
    """Walk one delivery through all steps."""
    try:
        event = validated(delivery)
    except (UsageError, PayloadUnreadable) as error:
        settlement.give_up(delivery.run, error, cause_of(error), is_told=_is_told(delivery))
        raise
    delivery, refusal = admitted(delivery, event)
    outcome = refusal or handled_and_settled(delivery, event)
    delivery.run.emit(DeliveryFinished, attempt=delivery.run.begun.number, outcome=str(outcome))
    return outcome


def opened(task: DeliveryTask, request: Any, document: object) -> Delivery:
    """Make a delivery of a task request of Celery's."""
    subscription = task.handler.subscription
    run = received(task.bus, request, task=subscription.name, queue=subscription.queue, document=document)
    return Delivery(run, task.handler)


def validated(delivery: Delivery) -> Event:
    """Read the event. Raises UsageError (unknown_event_type), InvalidEvent or PayloadUnreadable."""
    try:
        document = claim_check.whole(delivery.bus, delivery.run.document)
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # Nothing was done yet: the broker keeps the message for later.
        raise Reject(error, requeue=True) from error
    return read(document, delivery.bus.event_registry)


def admitted(delivery: Delivery, event: Event) -> tuple[Delivery, Outcome | None]:
    """Decide whether the event is to be handled, and note that a run begins; without an outcome, it does.

    Raises: Permanent (hop_limit_reached), DeliveryCrashed; Permanent (event_expired) where what comes too late is kept.
    """
    # What an operator has delivered again is wanted, whatever was aborted before; and errors have to be heard.
    may_be_aborted = delivery.run.replay_id is None and event.category is not Category.ERROR
    work = (delivery.handler.subscription.agent, event.correlation_id) if may_be_aborted else None
    delivery = replace(delivery, run=settlement.begin(delivery.run, work=work))
    begun = delivery.run.begun
    if begun.is_settled:
        return delivery, Outcome.DUPLICATE
    if begun.is_aborted:
        delivery.bus.stores.counters.add("aborted")
        settlement.settle(delivery.run)
        return delivery, Outcome.ABORTED
    if begun.is_poison:
        _refuse(delivery, event, DeliveryCrashed(delivery.run.task, begun.deaths))
    expires_at = delivery.handler.subscription.expires_at(event)
    if expires_at is not None and expires_at <= datetime.now(UTC) and delivery.run.replay_id is None:
        if delivery.bus.settings.dead_letter_expired:
            _refuse(delivery, event, event_expired(event.event_type, expires_at.isoformat()))
        settlement.settle(delivery.run)
        return delivery, Outcome.EXPIRED
    limit = delivery.bus.settings.max_hops
    if event.hops > limit:
        _refuse(delivery, event, hop_limit_reached(event.event_type, event.hops, limit))
    return delivery, None


def _refuse(delivery: Delivery, event: Event, error: Permanent) -> None:
    settlement.give_up(delivery.run, error, cause_of(error), event=event, is_told=_is_told(delivery))
    raise error


def handled_and_settled(delivery: Delivery, event: Event) -> Outcome:
    """Run the handler, publish what it said, and mark the delivery. Raises as `endings.fail`."""
    try:
        context = handled(delivery, event)
        said = context.outbox
        if not (said.held or said.later or said.state) and settlement.ends_with_ack(delivery.run):
            delivery.bus.resource(deduplication.Known).note_end(delivery.run.delivery_id)
            return Outcome.HANDLED
        return settlement.settle(delivery.run, said.held, said.later, state=said.state)
    except Reject:
        raise
    except Exception as error:
        failed(delivery, event, error)
        raise


def handled(delivery: Delivery, event: Event) -> Context:
    """Run the handler; returns its context, with what is to be published for it. Raises as `run_handler`."""
    subscription, run = delivery.handler.subscription, delivery.run
    context = Context(event, run.delivery_id, subscription, run.begun.number, delivery.bus, run.replay_id)
    handling(context, partial(run_handler, delivery.handler, context))
    if subscription.shadow:
        shadow_traffic.silence(context)
    return context


def failed(delivery: Delivery, event: Event, error: Exception) -> None:
    """End a run whose handler failed. Raises Retry where it comes again, else the error."""
    subscription = delivery.handler.subscription
    priority = event.priority if subscription.priority is None else subscription.priority
    settlement.fail(
        delivery.run, error, delivery.handler.retry, event=event, priority=priority, is_told=_is_told(delivery)
    )


def failed_from_outside(task: DeliveryTask, request: Any, document: object, error: Exception) -> bool:
    """End a run that its own process cannot end any more; returns whether that is noted."""
    delivery = opened(task, request, document)
    delivery = replace(delivery, run=settlement.recalled(delivery.run))
    try:
        failed(delivery, validated(delivery), error)
    except Reject:
        return False
    except (Retry, type(error)):
        pass
    return True


def _is_told(delivery: Delivery) -> bool:
    # Nobody waits for a shadow, and no flow may end because of one.
    return not delivery.handler.subscription.shadow
