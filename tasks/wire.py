"""The wire: an event at the door of the journey, and as the one argument of a task message.

The argument is the event's JSON object, readable in Flower and by programs in other languages. Of a large event it is
all but the content (payloads.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic_core import PydanticSerializationError

from events.errors import EventTooLarge, InvalidValue, WrongType
from events.event import MOST_URGENT, Event
from events.registry import EventRegistry
from tasks.stores.blobs import Blob

Document: TypeAlias = Mapping[str, object]
"""An event as a JSON object: in our own form, or as a CloudEvent."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An event that may travel: checked, with its JSON object, and the JSON text that travels.

    The text is the whole event, or holds a reference in place of the content, where `payload` stays behind.
    """

    event: Event
    text: str
    document: dict[str, object]
    payload: Blob | None = None

    @property
    def travelling(self) -> dict[str, object]:
        """What travels, as a JSON object."""
        if self.payload is None:
            return self.document
        travelling: dict[str, object] = json.loads(self.text)
        return travelling


def admit(event: object, registry: EventRegistry, limit_bytes: int) -> Admitted:
    """Check an event at the door, so that no station behind it has to.

    Raises: UnknownEventType, MissingField, UnknownField, WrongType, InvalidValue, EventTooLarge.
    """
    if isinstance(event, Event):
        registry.check_class(event)
    else:
        event = read(event, registry)
    text = _as_json(event)
    size = len(text.encode())
    if size > limit_bytes:
        raise EventTooLarge(event.event_type, size, limit_bytes)
    # Read back what will be sent: an instance that was built around its own validation is found out here.
    return Admitted(registry.parse_json(text), text, json.loads(text))


def read(document: object, registry: EventRegistry) -> Event:
    """Read an event from a JSON object in our form or as a CloudEvent. Raises as `admit`."""
    if not isinstance(document, Mapping):
        raise WrongType("event", "event", f"must be a JSON object, not a {type(document).__name__}")
    if "specversion" in document:
        return registry.parse_cloudevent(document)
    return registry.parse(document)


def broker_priority(priority: int, driver: str) -> int:
    """Turn our priority (9 first) into the broker's: Redis takes 0 first."""
    return MOST_URGENT - priority if driver == "redis" else priority


def _as_json(event: Event) -> str:
    try:
        return event.model_dump_json()
    except PydanticSerializationError as error:
        raise InvalidValue(event.event_type, "content", f"cannot be written as JSON: {error}") from error
