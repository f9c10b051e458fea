"""Dead-lettering: store a failed delivery as a dead letter and publish `error.dead_lettered`.

    cause_of             classify an error
    build_dead_letter    make the dead letter of a delivery
    dead_letter          store it, publish the notices, and settle the delivery

A failing handler also causes `agent.failed`, and a failing responder the response to its request. If broker and state
store are the same Redis, one commit stores the letter, publishes these events, settles the delivery and advances its
message group.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import JsonValue, TypeAdapter

from petiole.events import clock, responses
from petiole.events.catalog.agent import AgentFailedEvent, AgentFailure
from petiole.events.catalog.error import ErrorContent, ErrorEvent
from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent
from petiole.events.dead_letter import Cause, DeadLetter, FailedAttempt, fingerprint
from petiole.events.errors import (
    DeliveryCrashed,
    PayloadUnreadable,
    Permanent,
    QueueFull,
    Severity,
    UsageError,
    error_type_of,
)
from petiole.events.event import Category, Event, EventFields
from petiole.events.ids import ReservedIndex, emitted_event_id
from petiole.events.texts import error_text, parse_json, safe_text, traceback_text
from petiole.tasks.instrumentation import DeliveryDeadLettered, OperationFailed
from petiole.tasks.instrumentation.delivery_fields import read_trace_id
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.delayed import delay_publication
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.publications import Settlement

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

DEAD_LETTERED_EVENT_TYPE = "error.dead_lettered"

FORBIDDEN_EVENT_TYPE = "error.event_forbidden"

ALARM_INTERVAL_S = 600.0
"""At most one alarm about forbidden events is published in this time; `petiole dead-letters` has each of them."""

MAX_FIELD_LENGTH = 500
"""The most characters of an event's field in logs and notices; an invalid event may have any."""

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


_CAUSES_BY_CODE: Mapping[str, Cause] = {
    "hop_limit_reached": "loop",
    "event_expired": "expired",
    "unknown_event_type": "unknown_type",
    "newer_version": "unknown_type",
    "event_forbidden": "forbidden",
}

# The first matching class counts.
_CAUSES: tuple[tuple[type[BaseException], Cause], ...] = (
    (PayloadUnreadable, "payload"),
    (DeliveryCrashed, "poison"),
    (UsageError, "invalid"),
    (Permanent, "permanent"),
    (BaseException, "failed"),
)


def cause_of(error: BaseException) -> Cause:
    """Return the cause of a dead letter for a delivery that ended in this error."""
    by_class = next(cause for error_class, cause in _CAUSES if isinstance(error, error_class))
    return _CAUSES_BY_CODE.get(error_type_of(error), by_class)


def build_dead_letter(
    bus: BusRuntime,
    error: BaseException,
    cause: Cause,
    *,
    delivery_id: str,
    subscription: str,
    queue: str,
    document: object = None,
    raw: bytes | None = None,
    attempts: Sequence[FailedAttempt] = (),
    letter_id: str | None = None,
    message_group: str | None = None,
) -> DeadLetter:
    """Make the dead letter of a delivery that ended in an error.

    A document that cannot be stored as JSON (NaN, a lone surrogate, too deep nesting) is kept as bytes in `raw`.

    Args:
        bus: the bus of the delivery.
        error: the error that ended the last attempt.
        cause: the classification of the error.
        delivery_id: id of the delivery.
        subscription: name of the subscription; empty if unknown.
        queue: the queue that the message came from.
        document: the event's JSON object.
        raw: the message's bytes, if it could not be decoded.
        attempts: all failed attempts, oldest first.
        letter_id: the existing letter's id, if the delivery replays a dead letter.
        message_group: the message group of an ordered delivery.
    """
    document = _restore_content(bus, document)
    if not _is_storable(document):
        document, raw = None, raw or json.dumps(document).encode()
    return DeadLetter.model_validate(
        {
            "id": letter_id or delivery_id,
            "delivery_id": delivery_id,
            "subscription": safe_text(subscription),
            "queue": safe_text(queue),
            "cause": cause,
            "error_type": error_type_of(error),
            "error": error_text(error),
            "traceback": traceback_text(error),
            "fingerprint": fingerprint(error),
            "attempts": tuple(attempts),
            "at": bus.now(),
            "document": document,
            "raw": None if raw is None else base64.b64encode(raw),
            "message_group": message_group,
        }
    )


def build_bare_dead_letter(
    error: BaseException,
    cause: Cause,
    *,
    delivery_id: str,
    subscription: str,
    queue: str,
    event: object,
    letter_id: str | None = None,
    message_group: str | None = None,
) -> DeadLetter:
    """Make a dead letter of what can certainly be stored: the event, and the error without its traceback."""
    raw = event if isinstance(event, bytes) else json.dumps(event, default=safe_text).encode()
    document = _parse_storable(raw)
    return DeadLetter(
        id=letter_id or delivery_id,
        delivery_id=delivery_id,
        subscription=safe_text(subscription),
        queue=safe_text(queue),
        cause=cause,
        error_type=safe_text(type(error).__name__),
        error=safe_text(error),
        traceback="",
        fingerprint="",
        attempts=(),
        at=clock.now(),
        document=document,
        raw=base64.b64encode(raw) if document is None else None,
        message_group=message_group,
    )


def dead_letter(
    bus: BusRuntime,
    letter: DeadLetter,
    *,
    event: Event | None = None,
    settlement: Settlement | None = None,
    is_published: bool = True,
) -> None:
    """Store a dead letter, publish it on the error channel, and settle the delivery. Safe to repeat.

    A dead letter of the error channel itself is not published, because errors about errors could repeat forever.

    Raises:
        BrokerUnavailable: the letter is not stored, so the message must not be acknowledged.
        LeaseLost: another worker has the delivery by now.
    """
    _store(bus, letter, event, settlement, is_published=is_published)
    fields: dict[str, Any] = dict(log_fields(letter))
    if traceparent := letter.event_attribute("traceparent"):
        fields["trace_id"] = read_trace_id(traceparent)
    record = DeliveryDeadLettered(
        **fields,
        agent=letter.queue,
        attempt=len(letter.attempts),
        cause=letter.cause,
        error=letter.error,
        exception=sys.exception(),
    )
    bus.instrumentation.emit(record)


def _store(
    bus: BusRuntime, letter: DeadLetter, event: Event | None, settlement: Settlement | None, *, is_published: bool
) -> None:
    if settlement is None:
        bus.stores.dead_letters.put(letter)
    else:
        settlement = replace(settlement, outcome="dead_lettered", letter=letter)
    notices = [validate(bus, notice) for notice in _build_notices(bus, letter, event)] if is_published else []
    response = _failure_response(bus, letter, event)
    responses = [] if response is None else [validate(bus, response)]
    if not bus.publishes_atomically:
        # As delayed messages, which any worker sends: a crash after the commit would lose a direct publication.
        delayed = [delay_publication(bus, validated, letter.at) for validated in (*notices, *responses)]
        commit(bus, [], settlement=settlement, delayed=delayed)
        return
    try:
        commit(bus, [*notices, *responses], settlement=settlement)
    except QueueFull as error:
        # A subscriber of the error channel has a full queue. The letter is stored and its message group advances.
        failed = OperationFailed(
            operation="dead_letter.publish_failed", exception=error, delivery_id=letter.delivery_id
        )
        bus.instrumentation.emit(failed)
        delayed = [delay_publication(bus, validated, letter.at) for validated in responses]
        commit(bus, [], settlement=settlement, delayed=delayed)


def log_fields(letter: DeadLetter) -> dict[str, str]:
    """Return the fields that identify a letter's delivery in logs and events."""
    event_fields = ("event_type", "event_id", "stream_id", "correlation_id")
    return {
        "delivery_id": letter.delivery_id,
        "subscription": letter.subscription,
        **{name: safe_text(letter.event_attribute(name), MAX_FIELD_LENGTH) for name in event_fields},
    }


def _build_notices(bus: BusRuntime, letter: DeadLetter, event: Event | None) -> Iterator[Event]:
    if letter.cause == "forbidden":
        # One in ALARM_INTERVAL_S, in no flow: whoever forges events could fill the error channel, or end flows.
        yield _build_alarm(letter)
        return
    if event is None or event.category is not Category.ERROR:
        yield _build_dead_lettered_event(letter, event)
    handler = getattr(bus.app.tasks.get(letter.subscription), "handler", None)
    # No `agent.failed` about a handler of errors or of `agent.failed`: it could repeat forever.
    if event is None or handler is None or isinstance(event, ErrorEvent | AgentFailedEvent):
        return
    if letter.cause not in {"failed", "permanent"}:
        return
    agent, error = handler.subscription.agent, letter.error
    content = AgentFailure(agent=agent, error_type=letter.error_type, error=error)
    yield event.caused(AgentFailedEvent, event_id=_notice_id(letter, ReservedIndex.AGENT_FAILED), content=content)


def _build_dead_lettered_event(letter: DeadLetter, event: Event | None) -> ErrorEvent:
    content = ErrorContent(
        error_type=letter.error_type,
        message=letter.error,
        # A warning, because an error would end the flow: docs/decisions/0026-dead-letter-is-a-warning.md.
        severity=Severity.WARNING,
        parameters={**log_fields(letter), "cause": letter.cause},
    )
    fields: EventFields = {
        "event_id": _notice_id(letter, ReservedIndex.DEAD_LETTERED),
        "event_type": DEAD_LETTERED_EVENT_TYPE,
        "content": content,
    }
    return event.caused(ErrorEvent, **fields) if event else ErrorEvent.model_validate(fields)


def _build_alarm(letter: DeadLetter) -> ErrorEvent:
    """Build the alarm about forbidden events: the same event for all of an interval, so it is published once."""
    interval = int(letter.at.timestamp() // ALARM_INTERVAL_S)
    content = ErrorContent(
        error_type=letter.error_type,
        message=letter.error,
        severity=Severity.WARNING,
        parameters={**log_fields(letter), "cause": letter.cause},
    )
    event_id = str(uuid5(NAMESPACE_URL, f"petiole:forbidden:{interval}"))
    return ErrorEvent(event_id=event_id, event_type=FORBIDDEN_EVENT_TYPE, content=content)


def _notice_id(letter: DeadLetter, index: ReservedIndex) -> str:
    """Derive the id of an event about a letter: the same for every attempt, different from the handler's events."""
    return emitted_event_id(_as_uuid(letter.delivery_id), index)


def _as_uuid(delivery_id: str) -> str:
    """Return the delivery's id as a UUID, which ids of other Celery clients need not be."""
    try:
        return str(UUID(delivery_id))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"petiole:delivery:{delivery_id}"))


def _is_storable(document: object) -> bool:
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        _JSON.validate_python(document)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_storable(text: bytes) -> JsonValue:
    """Parse the JSON of an event; None if it cannot be stored."""
    try:
        document: JsonValue = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return document if _is_storable(document) else None


def _restore_content(bus: BusRuntime, document: object) -> object:
    """Return the document with its full content, because a letter outlives the retention of stored contents."""
    if not isinstance(document, Mapping):
        return document
    try:
        return bus.stores.blobs.restore(document)
    except PayloadUnreadable:
        return document


def _failure_response(bus: BusRuntime, letter: DeadLetter, event: Event | None) -> ResponseFailureEvent | None:
    """Build the response to a request whose responder failed; None for other events and for plain subscribers."""
    handler = getattr(bus.app.tasks.get(letter.subscription), "handler", None)
    if not isinstance(event, RequestEvent) or handler is None:
        return None
    if not responses.is_responder(handler.subscription, event.content.responder):
        return None
    return responses.build_failure(event, letter.error_type, letter.error)
