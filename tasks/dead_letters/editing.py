"""Edit a dead letter: a new letter with the corrected event replaces it; the old one is kept as `replaced`.

The identity of the event cannot change: its id, type, stream, flow and cause. If no event could be read, all fields are
new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from petiole.events.arguments import checks_arguments
from petiole.events.catalog.dead_letters import DeadLetterEditedEvent, EditedLetter
from petiole.events.content import Text
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import InvalidEvent, cannot_edit, unknown_dead_letter, unknown_subscription
from petiole.events.event import SIGNATURE
from petiole.events.ids import ReservedIndex, edited_letter_id, emitted_event_id
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK
from petiole.tasks.dead_letters.selection import get_dead_letter
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.audit import publish_audit_events
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.publishing.document import Document, parse_event, validate_event
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.blobs import DATAREF
from petiole.tasks.trust.policy import OPERATOR

LOCKED_FIELDS = ("event_id", "stream_id", "correlation_id", "causation_id", "event_type")
"""Fields that an edited event must keep."""

_LOCKED_CLOUDEVENT_ATTRIBUTES = ("id", "source", "subject", "correlationid", "causationid", "type")
_CAUSES_WITHOUT_EVENT = ("invalid", "unknown_type", "undecodable")

_REFUSAL_REASONS = {
    "replaying": "is being replayed; wait for its outcome",
    "resolved": "is resolved, a replay of it was handled; publish a new event instead",
    "replaced": "was edited before; edit the letter that replaced it, whose `edited_from` names this one",
}


@checks_arguments(letter_id=Text, event=dict[str, Any], subscription=Text | None, operator=Text | None)
def edit(
    letter_id: str,
    event: Document,
    *,
    subscription: str | None = None,
    operator: str | None = None,
    bus: BusRuntime | None = None,
) -> DeadLetter:
    """Replace a pending or failed_again dead letter by one with this event; returns the new letter. Safe to repeat.

    `subscription` sends it to another subscription. Without it, an event that replaces an unreadable one goes to the
    original subscription, or is published if that does not exist any more.

    Raises: UsageError (unknown_dead_letter, unknown_subscription); UsageError (cannot_edit) for an invalid event, a
        changed identity, or a letter in another state.
    """
    bus = current_bus(bus)
    old = get_dead_letter(letter_id, bus=bus)
    if old.state in _REFUSAL_REASONS:
        raise cannot_edit(letter_id, "state", _REFUSAL_REASONS[old.state])
    _check(bus, old.letter, event)
    new = _build_replacement(bus, old.letter, event, subscription)
    audit_event = _build_edited_event(old.letter, new, operator or current_operator())
    bus.trust.require_permission(audit_event, OPERATOR)
    with bus.state_store_access("editing a dead letter"):
        answer = bus.stores.dead_letters.replace(letter_id, new)
    if answer == "deleted":
        raise unknown_dead_letter(letter_id)
    if answer != "edited":
        raise cannot_edit(letter_id, "state", _REFUSAL_REASONS[answer])
    publish_audit_events(bus, [audit_event])
    return new


def locked_fields(letter: DeadLetter) -> tuple[str, ...]:
    """Return the fields that an edited event must keep; none if no event could be read."""
    if not isinstance(letter.document, Mapping) or letter.cause in _CAUSES_WITHOUT_EVENT:
        return ()
    return _LOCKED_CLOUDEVENT_ATTRIBUTES if "specversion" in letter.document else LOCKED_FIELDS


def _check(bus: BusRuntime, letter: DeadLetter, event: Document) -> None:
    document = letter.document if isinstance(letter.document, Mapping) else {}
    for name in locked_fields(letter):
        if document.get(name) != event.get(name):
            original = json.dumps(document.get(name))
            raise cannot_edit(letter.id, name, f"tells which event it is; leave it as it was: {original}")
    if DATAREF in event and "content" not in event:
        raise cannot_edit(letter.id, DATAREF, "refers to stored content that is missing; give `content`")
    try:
        validate_event(event, bus.event_registry, bus.settings.max_event_bytes)
    except InvalidEvent as error:
        raise cannot_edit(letter.id, error.field, error.reason) from error


def _build_replacement(bus: BusRuntime, letter: DeadLetter, event: Document, subscription: str | None) -> DeadLetter:
    document = json.dumps(event, sort_keys=True, separators=(",", ":"))
    stamped = _stamp(bus, json.loads(document))
    # Validated as a new letter, because it must hold JSON only.
    fields = letter.model_dump() | {
        "id": edited_letter_id(letter.id, f"{document} {subscription or ''}"),
        "document": stamped,
        "raw": None,
        "edited_from": letter.id,
    }
    return DeadLetter.model_validate(fields | _destination(bus, letter, subscription))


def _stamp(bus: BusRuntime, document: dict[str, object]) -> dict[str, object]:
    """Replace the publisher, and its signature, by the operator's: they would not fit the edited event."""
    event = parse_event(document, bus.event_registry)
    if not bus.trust.marks(event.event_type):
        return document
    publisher = bus.settings.publisher or OPERATOR
    bus.trust.require_permission(event, publisher)
    unsigned = {name: value for name, value in document.items() if name != SIGNATURE}
    return unsigned | bus.trust.members(document, publisher)


def _destination(bus: BusRuntime, letter: DeadLetter, subscription: str | None) -> dict[str, object]:
    _, subscriptions = bus.stores.directory.read()
    queues = {known.name: known.queue for known in subscriptions} | {PUBLISH_TASK: PUBLISH_QUEUE}
    if subscription is not None:
        if subscription not in queues:
            raise unknown_subscription(subscription)
        return {"subscription": subscription, "queue": queues[subscription], "message_group": None}
    if locked_fields(letter) or letter.subscription in queues:
        return {"queue": letter.queue or queues.get(letter.subscription, "")}
    return {"subscription": PUBLISH_TASK, "queue": PUBLISH_QUEUE, "message_group": None}


def _build_edited_event(old: DeadLetter, new: DeadLetter, operator: str) -> DeadLetterEditedEvent:
    changed = tuple(dict.fromkeys(_find_changed_paths(old.document, new.document)))
    content = EditedLetter(letter_id=old.id, operator=operator, edited_to=new.id, fields=changed[:_MAX_NAMED_FIELDS])
    event_id = emitted_event_id(new.id, ReservedIndex.EDITED)
    return DeadLetterEditedEvent(event_id=event_id, content=content)


_MAX_NAMED_FIELDS = 50


def _find_changed_paths(old: object, new: object, path: str = "") -> Iterator[str]:
    """List the paths at which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in (*old, *(name for name in new if name not in old)):
            yield from _find_changed_paths(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif old != new:
        yield path or "event"
