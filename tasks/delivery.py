"""The Celery task `<agent>.<handler>`: deliver one event to one handler.

Every subscription has one such task. `deliver` runs five steps:

    1. open_delivery        make a delivery of Celery's request: id, subscription, document
    2. validate_delivery    parse the document as an event of its class
    3. check_deliverable    skip duplicates, aborted flows and expired events; dead-letter loops and poison messages
    4. handle               run the handler and buffer the events that it publishes
    5. handle_and_settle    publish these events and mark the delivery as handled, in one commit

Step 3 decides by the event's fields, so it follows validation. A handler that publishes nothing needs no commit: the
acknowledgement ends the delivery. After a failure the task is retried or fails, so
Flower and Celery's signals show it. tasks/settlement/settlement.py has the possible outcomes. Whatever ends a step, the
delivery is acknowledged only with an outcome that is stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

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
from petiole.events.topics import ALL_TOPICS, list_matching_patterns
from petiole.tasks.handler_context import Context
from petiole.tasks.handling.cancellation import HandlerCancelled, cancellable
from petiole.tasks.handling.current import run_in_context
from petiole.tasks.handling.handler import Handler
from petiole.tasks.handling.invocation import run_handler
from petiole.tasks.instrumentation import DeliveryFinished, HandlerRan
from petiole.tasks.instrumentation.delivery_fields import describe_delivery
from petiole.tasks.instrumentation.tracing import is_tracing, trace_operation
from petiole.tasks.patterns import shadow_traffic
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import read_event
from petiole.tasks.runtime import BusRuntime, BusTask
from petiole.tasks.settlement import failures, parking, settlement
from petiole.tasks.settlement.dead_lettering import cause_of
from petiole.tasks.settlement.exits import as_failure, is_shutdown
from petiole.tasks.settlement.outcomes import DeadLettered, Outcome
from petiole.tasks.settlement.settlement import DeliveryAttempt, LazyDocument, build_attempt
from petiole.tasks.settlement.waits import record_end
from petiole.tasks.stores.blobs import DATAREF

_DATAREF = f'"{DATAREF}"'.encode()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver one event to one handler."""

    attempt: DeliveryAttempt
    handler: Handler

    @property
    def bus(self) -> BusRuntime:
        """The bus that delivers the event."""
        return self.attempt.bus


class _Cancelled(Exception):  # noqa: N818 - becomes an outcome
    """A handler was interrupted because its flow was cancelled."""


class DeliveryTask(BusTask):
    """The Celery task of one subscription."""

    handler: Handler
    Request = "petiole.tasks.consuming.request:TaskRequest"

    def run(self, document: object) -> str:
        """Deliver one event and return the outcome.

        Raises:
            Retry: the delivery is retried or deferred.
            Reject: the broker redelivers the message, because the outcome could not be stored.
            Exception: the handler's error, after the delivery was dead-lettered.
        """
        try:
            return deliver(open_delivery(self, self.request, document))
        except DeadLettered as ended:
            error = ended.error
        vars(self.request)["is_failure_logged"] = True  # read by tasks/consuming/direct.py
        raise error  # the task's error for Celery; outside `except`, so that nothing is added to its traceback


def deliver(delivery: Delivery) -> Outcome:
    """Run the steps that follow `open_delivery`.

    Raises:
        Retry: the delivery is retried or deferred.
        DeadLettered: its dead letter is stored.
        Reject: the broker redelivers the message.
        SystemExit: the process is being ended; the delivery has no outcome.
    """
    described = describe_delivery.set(delivery.attempt.describe)
    try:
        return _deliver(delivery)
    finally:
        describe_delivery.reset(described)


def _deliver(delivery: Delivery) -> Outcome:
    try:
        event = validate_delivery(delivery)
        if delivery.bus.trust.checks(event.event_type):
            delivery.bus.trust.admit(event, delivery.attempt.document)
        delivery, refusal = check_deliverable(delivery, event)
        describe_delivery.set(delivery.attempt.describe)
        with _trace_attempt(delivery, event):
            outcome = refusal or handle_and_settle(delivery, event)
    except (Retry, Reject, DeadLettered):
        raise
    except BaseException as error:
        if is_shutdown(error):
            if isinstance(error, Exception):  # a `finally` of the handler failed while the process ends
                raise SystemExit(1) from error
            raise
        if isinstance(error, UsageError) and (parked := parking.park(delivery.attempt, error)):
            return parked
        _settle_unexpected(delivery, error)
    _emit_finished(delivery, event, outcome)
    return outcome


def _emit_finished(delivery: Delivery, event: Event, outcome: Outcome) -> None:
    attempt = delivery.attempt
    if attempt.bus.instrumentation.wants(DeliveryFinished):
        age_s = max(0.0, (attempt.bus.now() - _published_at(attempt, event)).total_seconds())
        attempt.emit(DeliveryFinished, outcome=str(outcome), age_s=age_s)


def _published_at(attempt: DeliveryAttempt, event: Event) -> datetime:
    """Return when the event was published, or its delivery replayed; else when the event was made."""
    if attempt.entry is not None and attempt.entry.published_ms:
        return datetime.fromtimestamp(attempt.entry.published_ms / 1_000, UTC)
    return datetime.fromisoformat(attempt.replayed_at) if attempt.replayed_at else event.timestamp


def _trace_attempt(delivery: Delivery, event: Event) -> AbstractContextManager[object]:
    """Open the consumer span of an attempt; without a tracer provider there is none."""
    if not is_tracing():
        return nullcontext()
    from petiole.tasks.settlement.delivery_span import open_delivery_span

    subscription, attempt = delivery.handler.subscription, delivery.attempt
    attributes: dict[str, str | int] = {
        "messaging.destination.name": subscription.queue,
        "messaging.destination.subscription.name": subscription.name,
        "gen_ai.agent.name": subscription.agent,
        "petiole.delivery.id": attempt.delivery_id,
        "petiole.delivery.attempt": attempt.history.number,
    }
    is_linked = delivery.bus.settings.delivery_spans == "link" and event.category is not Category.REQUEST
    return open_delivery_span(event, attributes, is_linked=is_linked)


def _settle_unexpected(delivery: Delivery, error: BaseException) -> NoReturn:
    """End a delivery that failed outside its handler."""
    if isinstance(error, settlement.OUTAGES):
        settlement.requeue(delivery.attempt, error)
    failures.dead_letter_unhandled(
        delivery.attempt,
        as_failure(error, delivery.attempt.task),
        cause_of(error),
        is_published=_is_published(delivery),
    )


def open_delivery(task: DeliveryTask, request: Any, document: object) -> Delivery:
    """Make a delivery of a Celery task request."""
    subscription = task.handler.subscription
    attempt = build_attempt(task.bus, request, task=subscription.name, queue=subscription.queue, document=document)
    return Delivery(attempt, task.handler)


def validate_delivery(delivery: Delivery) -> Event:
    """Parse the event. Raises UsageError (unknown_event_type), InvalidEvent, PayloadUnreadable or Reject.

    A subscription that gets the event by the pattern `*` alone gets an unknown type, too: as an Event whose content has
    its fields in `model_extra`.
    """
    try:
        return _read_event(delivery)
    except UsageError as error:
        document = delivery.attempt.document
        if error.code != "unknown_event_type" or not _takes_any_type(delivery, document):
            raise
        return delivery.bus.event_registry.read_unknown(_restore_content(delivery))
    except PayloadUnreadable:
        # The content of an expired event is not kept; check_deliverable() ends its delivery.
        stub = _read_stub(delivery)
        if stub is None or _expired_at(delivery, stub) is None:
            raise
        return stub


def _read_stub(delivery: Delivery) -> Event | None:
    document = delivery.attempt.document
    if not isinstance(document, Mapping) or DATAREF not in document:
        return None
    attributes = {name: value for name, value in document.items() if name != DATAREF}
    return delivery.bus.event_registry.read_unknown(attributes | {"content": {}})


def _takes_any_type(delivery: Delivery, document: object) -> bool:
    topic = document.get("event_type") if isinstance(document, Mapping) else None
    patterns = delivery.handler.subscription.patterns
    matching = set(list_matching_patterns(topic)).intersection(patterns) if isinstance(topic, str) else set()
    return matching == {ALL_TOPICS}


def _read_event(delivery: Delivery) -> Event:
    attempt, registry = delivery.attempt, delivery.bus.event_registry
    if isinstance(attempt.event, LazyDocument) and _DATAREF not in attempt.event.text and not delivery.bus.trust.keys:
        return registry.read_json(attempt.event.text)
    if attempt.document is None and attempt.entry is not None:
        raise PayloadUnreadable("the event of this delivery", attempt.entry.reference)
    return read_event(_restore_content(delivery), registry)


def _restore_content(delivery: Delivery) -> object:
    try:
        return claim_check.restore_content(delivery.bus, delivery.attempt.document)
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # Nothing was done yet: the broker redelivers the message.
        raise Reject(error, requeue=True) from error


def check_deliverable(delivery: Delivery, event: Event) -> tuple[Delivery, Outcome | None]:
    """Record that an attempt begins, and decide whether the handler runs.

    Returns:
        The delivery with its attempt history, and the outcome if the handler must not run.

    Raises:
        DeadLettered: hop_limit_reached; event_expired if the setting `dead_letter_expired` is on; DeliveryCrashed if
            the delivery has crashed too many workers.
        Retry: another attempt handles the delivery; this copy waits.
        Reject: the store is unreachable; the broker redelivers the message.
    """
    abortable = (
        (delivery.handler.subscription.agent, event.correlation_id) if _may_be_aborted(delivery, event) else None
    )
    delivery = replace(delivery, attempt=settlement.begin(delivery.attempt, abortable=abortable))
    history = delivery.attempt.history
    if history.running_for is not None:
        failures.defer_copy(delivery.attempt, event, history.running_for)
    if history.is_settled:
        return delivery, Outcome.DUPLICATE
    if history.is_aborted:
        return delivery, _abort(delivery)
    if history.is_poison:
        _dead_letter(delivery, event, DeliveryCrashed(delivery.attempt.task, history.crashes))
    if (expires_at := _expired_at(delivery, event)) is not None:
        if delivery.bus.settings.dead_letter_expired:
            _dead_letter(delivery, event, event_expired(event.event_type, expires_at.isoformat()))
        settlement.settle(delivery.attempt)
        record_end(delivery.attempt, "expired")
        return delivery, Outcome.EXPIRED
    limit = delivery.bus.settings.max_hops
    if event.hops > limit:
        _dead_letter(delivery, event, hop_limit_reached(event.event_type, event.hops, limit))
    return delivery, None


def _expired_at(delivery: Delivery, event: Event) -> datetime | None:
    """Return when the delivery expired; None if it has not. An operator's replay never expires."""
    expires_at = delivery.handler.subscription.expires_at(event)
    has_expired = expires_at is not None and expires_at <= delivery.bus.now() and delivery.attempt.replay_id is None
    return expires_at if has_expired else None


def _may_be_aborted(delivery: Delivery, event: Event) -> bool:
    # An operator's replay runs even if the flow was aborted. Errors and the cancellation itself are never aborted.
    return delivery.attempt.replay_id is None and event.category not in {Category.ERROR, Category.SYSTEM}


def _abort(delivery: Delivery) -> Outcome:
    delivery.bus.stores.counters.add("aborted")
    settlement.settle(delivery.attempt)
    record_end(delivery.attempt, "aborted")
    return Outcome.ABORTED


def _dead_letter(delivery: Delivery, event: Event, error: Permanent) -> NoReturn:
    failures.dead_letter_unhandled(
        delivery.attempt, error, cause_of(error), event=event, is_published=_is_published(delivery)
    )


def handle_and_settle(delivery: Delivery, event: Event) -> Outcome:
    """Run the handler, publish its events, and mark the delivery as handled. Raises as `settle_failure`."""
    try:
        outbox = handle(delivery, event).outbox
        if not (outbox.events or outbox.delayed or outbox.state) and settlement.is_settled_by_ack(delivery.attempt):
            return Outcome.HANDLED
        return settlement.settle(delivery.attempt, outbox.events, outbox.delayed, state=outbox.state)
    except _Cancelled:
        return _abort(delivery)
    except Exception as error:
        # A handler may return its message to the queue, as in any Celery task; it may not drop it.
        is_requeued = isinstance(error, Reject) and bool(getattr(error, "requeue", False))  # the stubs leave it out
        if is_requeued or is_shutdown(error):
            raise
        handle_failure(delivery, event, as_failure(error, delivery.attempt.task))


def handle(delivery: Delivery, event: Event) -> Context:
    """Run the handler and return its context, whose outbox has the events to publish. Raises as `run_handler`."""
    subscription, attempt = delivery.handler.subscription, delivery.attempt
    context = Context(event, attempt.delivery_id, subscription, attempt.history.number, delivery.bus, attempt.replay_id)
    named = {"gen_ai.agent.name": subscription.agent, "gen_ai.conversation.id": event.stream_id}
    started = time.perf_counter()
    try:
        with trace_operation("invoke_agent", subscription.agent, named):
            run_in_context(context, partial(_run_cancellable, delivery, context))
    finally:
        attempt.emit(HandlerRan, duration_s=time.perf_counter() - started)
    if subscription.shadow:
        shadow_traffic.capture_output(context)
    return context


def _run_cancellable(delivery: Delivery, context: Context) -> None:
    """Run the handler. Raises _Cancelled if it was interrupted because its flow was cancelled; as `run_handler`."""
    if not _may_be_aborted(delivery, context.event):
        run_handler(delivery.handler, context)
        return
    try:
        with cancellable(delivery.bus, context.event.correlation_id) as running:
            try:
                run_handler(delivery.handler, context)
            except Exception as error:
                if running.is_cancelled:
                    raise _Cancelled from error
                raise
    except HandlerCancelled as error:  # it arrived while the handler ended
        raise _Cancelled from error


def handle_failure(delivery: Delivery, event: Event, error: Exception) -> NoReturn:
    """Settle an attempt whose handler failed. Raises as `settle_failure`."""
    subscription = delivery.handler.subscription
    priority = event.priority if subscription.priority is None else subscription.priority
    failures.settle_failure(
        delivery.attempt,
        error,
        delivery.handler.retry,
        event=event,
        priority=priority,
        is_published=_is_published(delivery),
    )


def handle_external_failure(task: DeliveryTask, request: Any, document: object, error: Exception) -> bool:
    """Settle an attempt whose process was killed, from the worker's main process.

    Returns:
        True if the outcome was stored; False if the broker must redeliver the message.
    """
    delivery = open_delivery(task, request, document)
    delivery = replace(delivery, attempt=settlement.load_history(delivery.attempt))
    try:
        handle_failure(delivery, validate_delivery(delivery), error)
    except Reject:
        return False
    except (Retry, DeadLettered):
        return True


def _is_published(delivery: Delivery) -> bool:
    # A shadow handler's failure must not reach the flow that it observes.
    return not delivery.handler.subscription.shadow
