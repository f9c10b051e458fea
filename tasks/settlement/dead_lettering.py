"""Burial: what goes no further is kept as a dead letter, and the error channel hears of it.

In one step where the broker can: the letter, `error.dead_lettered`, and the end of the delivery, whose mailbox goes on.
Where it was a handler that failed, the bus hears of it, too: `agent.failed`.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import JsonValue, TypeAdapter

from petiole.events import responses
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
from petiole.tasks.instrumentation import DeliveryDeadLettered, OperationFailed
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.delayed import delay_publication
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.publications import Settlement

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

DEAD_LETTERED_EVENT_TYPE = "error.dead_lettered"

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


_CAUSES_BY_CODE: Mapping[str, Cause] = {
    "hop_limit_reached": "loop",
    "event_expired": "expired",
    "unknown_event_type": "unknown_type",
    "newer_version": "unknown_type",
}

# The first that fits.
_CAUSES: tuple[tuple[type[BaseException], Cause], ...] = (
    (PayloadUnreadable, "payload"),
    (DeliveryCrashed, "poison"),
    (UsageError, "invalid"),
    (Permanent, "permanent"),
    (BaseException, "failed"),
)


def cause_of(error: BaseException) -> Cause:
    """Say why a delivery is given up that ended in this error."""
    by_class = next(cause for kind, cause in _CAUSES if isinstance(error, kind))
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
    """Make the dead letter of a delivery that ended in an error; `letter_id` where it was a dead letter before.

    A document that JSON cannot say again as it is (NaN, half a surrogate pair, deeper than anybody reads) is kept as
    bytes.
    """
    document = _restore_content(bus, document)
    if not _is_storable(document):
        document, raw = None, raw or json.dumps(document).encode()
    return DeadLetter.model_validate(
        {
            "id": letter_id or delivery_id,
            "delivery_id": delivery_id,
            "subscription": _escape_surrogates(subscription),
            "queue": _escape_surrogates(queue),
            "cause": cause,
            "error_type": error_type_of(error),
            "error": _escape_surrogates(str(error)),
            "traceback": _escape_surrogates("".join(traceback.format_exception(error))),
            "fingerprint": fingerprint(error),
            "attempts": tuple(attempts),
            "at": datetime.now(UTC),
            "document": document,
            "raw": None if raw is None else base64.b64encode(raw),
            "message_group": message_group,
        }
    )


def dead_letter(
    bus: BusRuntime,
    letter: DeadLetter,
    *,
    event: Event | None = None,
    settlement: Settlement | None = None,
    is_published: bool = True,
) -> None:
    """Keep a dead letter, say so on the error channel, and settle the delivery. Safe to repeat.

    What is buried of the error channel itself is not told, or it would never end. Raises BrokerUnavailable: nobody
    keeps it then but the broker, and its message must not be acknowledged. Raises LeaseLost as `dispatch`.
    """
    record = DeliveryDeadLettered(
        **log_fields(letter), cause=letter.cause, error=letter.error, exception=sys.exception()
    )
    bus.instrumentation.emit(record)
    if settlement is None:
        bus.stores.dead_letters.put(letter)
    else:
        settlement = replace(settlement, outcome="dead_lettered", letter=letter)
    told = [validate(bus, each) for each in _build_notices(bus, letter, event)] if is_published else []
    answer = _failure_response(bus, letter, event)
    answers = [] if answer is None else [validate(bus, answer)]
    if not bus.publishes_atomically:
        # Told by whoever looks into the waiting room next: a worker that died between the two would leave one untold.
        later = [delay_publication(bus, each, letter.at) for each in (*told, *answers)]
        commit(bus, [], settlement=settlement, delayed=later)
        return
    try:
        commit(bus, [*told, *answers], settlement=settlement)
    except QueueFull as error:
        # Who hears the error channel has no room. The letter is kept, and its mailbox goes on, all the same.
        failed = OperationFailed(
            operation="dead_letter.publish_failed", exception=error, delivery_id=letter.delivery_id
        )
        bus.instrumentation.emit(failed)
        commit(bus, [], settlement=settlement, delayed=[delay_publication(bus, each, letter.at) for each in answers])


def log_fields(letter: DeadLetter) -> dict[str, str]:
    """Say which delivery a letter is of."""
    said: dict[str, str] = {"delivery_id": letter.delivery_id, "subscription": letter.subscription}
    for name in ("event_type", "event_id", "stream_id", "correlation_id"):
        said[name] = str(letter.event_attribute(name))
    return said


def _build_notices(bus: BusRuntime, letter: DeadLetter, event: Event | None) -> Iterator[Event]:
    if event is None or event.category is not Category.ERROR:
        yield _build_dead_lettered_event(letter, event)
    handler = getattr(bus.app.tasks.get(letter.subscription), "handler", None)
    # One that fails at the failures of agents would never end.
    if event is None or handler is None or isinstance(event, ErrorEvent | AgentFailedEvent):
        return
    if letter.cause not in {"failed", "permanent"}:
        return
    agent, error = handler.subscription.agent, letter.error or letter.error_type
    content = AgentFailure(agent=agent, error_type=letter.error_type, error=error)
    yield event.caused(AgentFailedEvent, event_id=_notice_id(letter, ReservedIndex.AGENT_FAILED), content=content)


def _build_dead_lettered_event(letter: DeadLetter, event: Event | None) -> ErrorEvent:
    content = ErrorContent(
        error_type=letter.error_type,
        message=letter.error or letter.error_type,
        # No error: what else the agent does for this flow goes on. docs/decisions/ tells why.
        severity=Severity.WARNING,
        parameters={**log_fields(letter), "cause": letter.cause},
    )
    fields: EventFields = {
        "event_id": _notice_id(letter, ReservedIndex.DEAD_LETTERED),
        "event_type": DEAD_LETTERED_EVENT_TYPE,
        "content": content,
    }
    return event.caused(ErrorEvent, **fields) if event else ErrorEvent.model_validate(fields)


def _notice_id(letter: DeadLetter, index: ReservedIndex) -> str:
    """Name what is said of a letter: by a place beside those of what a handler says, so the same for every run."""
    return emitted_event_id(_as_uuid(letter.delivery_id), index)


def _as_uuid(delivery_id: str) -> str:
    """Name a delivery whose id a foreign client has chosen, as ours are named."""
    try:
        return str(UUID(delivery_id))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"petiole:delivery:{delivery_id}"))


def _escape_surrogates(text: str) -> str:
    """Write what is no Unicode, such as half a surrogate pair, as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_storable(document: object) -> bool:
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        _JSON.validate_python(document)
    except (ValueError, RecursionError):
        return False
    return True


def _restore_content(bus: BusRuntime, document: object) -> object:
    """Return what a letter keeps: the whole event, since a letter outlives what contents are stored for."""
    if not isinstance(document, Mapping):
        return document
    try:
        return bus.stores.blobs.restore(document)
    except PayloadUnreadable:
        return document


def _failure_response(bus: BusRuntime, letter: DeadLetter, event: Event | None) -> ResponseFailureEvent | None:
    """Word the answer to a request whose delivery is buried; None for what is no request, or was only listened to."""
    handler = getattr(bus.app.tasks.get(letter.subscription), "handler", None)
    if not isinstance(event, RequestEvent) or handler is None:
        return None
    if not responses.is_responder(handler.subscription, event.content.responder):
        return None
    return responses.build_failure(event, letter.error_type, letter.error)
