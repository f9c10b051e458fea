"""The wire: an event at the door of the journey, and as the one argument of a task message.

The argument is the event's JSON object, readable in Flower and by programs in other languages. Of a large event it is
all but the content (payloads.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from pydantic_core import PydanticSerializationError

from petiole.events.errors import InvalidEvent, event_too_large
from petiole.events.event import Event
from petiole.events.registry import EventRegistry
from petiole.tasks.stores.blobs import Blob

_UTF8_MAX = 4

Document: TypeAlias = Mapping[str, object]
"""An event as a JSON object: in our own form, or as a CloudEvent."""


@dataclass(frozen=True)
class Admitted:
    """An event that may travel: checked, with its JSON text.

    `remainder` is the text with a reference in place of the content, where `payload` stays behind.
    """

    event: Event
    whole: str
    remainder: str | None = None
    payload: Blob | None = None

    @property
    def text(self) -> str:
        """The JSON text that travels."""
        return self.whole if self.remainder is None else self.remainder

    @cached_property
    def document(self) -> dict[str, object]:
        """The whole event as a JSON object. Few look into it, so it is made only then."""
        return _as_object(self.whole)

    @property
    def travelling(self) -> dict[str, object]:
        """What travels, as a JSON object."""
        return self.document if self.remainder is None else _as_object(self.remainder)


def admit(event: object, registry: EventRegistry, limit_bytes: int) -> Admitted:
    """Check an event at the door, so that no station behind it has to.

    Raises: UsageError (unknown_event_type), InvalidEvent (missing_field, unknown_field, wrong_type, invalid_value),
    UsageError (event_too_large).
    """
    if isinstance(event, Event):
        registry.check_class(event)
    else:
        event = read(event, registry)
    text = _as_json(event)
    if is_above(text, limit_bytes):
        raise event_too_large(event.event_type, len(text.encode()), limit_bytes)
    # Read back what will be sent: an instance that was built around its own validation is found out here.
    return Admitted(registry.parse_json(text), text)


def read(document: object, registry: EventRegistry) -> Event:
    """Read an event from a JSON object in our form or as a CloudEvent. Raises as `admit`."""
    if not isinstance(document, Mapping):
        raise InvalidEvent(
            "event", "event", f"must be a JSON object, not a {type(document).__name__}", code="wrong_type"
        )
    if "specversion" in document:
        return registry.parse_cloudevent(document)
    return registry.parse(document)


def is_above(text: str, limit_bytes: int) -> bool:
    """Tell whether a text is above the limit in UTF-8. Most are far below it, and are not encoded to be measured."""
    return len(text) * _UTF8_MAX > limit_bytes and len(text.encode()) > limit_bytes


def _as_json(event: Event) -> str:
    try:
        return event.model_dump_json()
    except PydanticSerializationError as error:
        raise InvalidEvent(
            event.event_type, "content", f"cannot be written as JSON: {error}", code="invalid_value"
        ) from error


def _as_object(text: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(text)
    return document
