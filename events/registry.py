"""EventRegistry: which event types exist, what they hold, and whether a given event keeps to it.

The catalog's types are known from the start. Types of your own are registered as classes, or declared by name with
the parameters they take:

    registry.register(OrderPlacedEvent)
    registry.declare("custom.data_updated", {"entity_id": str, "field": str}, description="A record changed.")
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from petiole.events import catalog
from petiole.events.catalog.message import CustomEvent
from petiole.events.cloudevents import fields_of
from petiole.events.content import ParametersContent
from petiole.events.errors import (
    InvalidEvent,
    UsageError,
    already_registered,
    built_in_already_registered,
    newer_version,
    unknown_event_type,
)
from petiole.events.event import Event, OpenEvent
from petiole.events.topics import check_topic, is_topic
from petiole.events.validation import invalid_event

AnEvent = TypeVar("AnEvent", bound=Event)


@dataclass(frozen=True, slots=True)
class EventType:
    """A registered event type: its topic (`message.*` for an open family), class, version and words about it."""

    topic: str
    model: type[Event]
    description: str
    is_builtin: bool
    parameters: type[BaseModel] | None = None

    @property
    def schema_version(self) -> int:
        """The version of the content's schema that this process writes and reads."""
        return int(self.model.model_fields["schema_version"].default)


class EventRegistry:
    """Event types by topic. Safe to read and to extend from several threads.

    `allows_undeclared` lets `custom.*` topics pass without a declaration.
    """

    def __init__(self, *, allows_undeclared: bool = False) -> None:
        self.allows_undeclared: Final = allows_undeclared
        self._types: dict[str, EventType] = {}
        self._registering = threading.Lock()
        for model in catalog.event_classes():
            self._add(_describe(model, is_builtin=True))

    def get(self, topic: str) -> EventType | None:
        """Look up the type of a topic, also one of an open family; None where there is none."""
        found = self._types.get(topic)
        if found is not None or "." not in topic:
            return found
        family = self._types.get(f"{topic.split('.', 1)[0]}.*")
        if family is not None and family.model is CustomEvent and not self.allows_undeclared:
            return None
        return family

    def __contains__(self, topic: str) -> bool:
        """Tell whether events of that topic can be published."""
        return is_topic(topic) and self.get(topic) is not None

    def all(self) -> list[EventType]:
        """List every type by topic."""
        return sorted(self._types.values(), key=lambda event_type: event_type.topic)

    def custom(self) -> list[EventType]:
        """List the types that do not come from the catalog."""
        return [event_type for event_type in self.all() if not event_type.is_builtin]

    def register(self, model: type[AnEvent]) -> type[AnEvent]:
        """Make an event class known; usable as a decorator. Registering the same class again changes nothing.

        Raises: UsageError where the class binds no topic, UsageError (already_registered, built_in_already_registered).
        """
        self._add(_describe(model, is_builtin=False))
        return model

    def declare(
        self, topic: str, parameters: Mapping[str, type] | type[BaseModel], *, description: str = ""
    ) -> EventType:
        """Make a `custom.*` topic known, whose events are CustomEvents with these parameters.

        `parameters` maps names to types (all required), or is a pydantic model where some are optional.
        Raises: UsageError (invalid_topic, already_registered, built_in_already_registered), also for a topic outside
        `custom.*`.
        """
        _check_can_be_declared(topic)
        schema = parameters if isinstance(parameters, type) else _schema_of(topic, parameters)
        declared = EventType(topic, CustomEvent, description, is_builtin=False, parameters=schema)
        self._add(declared)
        return declared

    def nearest(self, topic: str) -> str | None:
        """Find the registered topic that looks most like this one; open families are no topics."""
        topics = [known for known in self._types if not known.endswith("*")]
        matches = difflib.get_close_matches(topic, topics, n=1, cutoff=0.6)
        return matches[0] if matches else None

    def parse(self, document: Mapping[str, object]) -> Event:
        """Read an event from a JSON object, as an instance of its type's class.

        Raises: UsageError (unknown_event_type), InvalidEvent (missing_field, unknown_field, wrong_type, invalid_value).
        """
        topic = document.get("event_type")
        if topic is None:
            raise InvalidEvent(
                "event",
                "event_type",
                "is required; give the topic, such as 'input.message.received'",
                code="missing_field",
            )
        if not isinstance(topic, str):
            raise InvalidEvent("event", "event_type", f"must be text, not a {type(topic).__name__}", code="wrong_type")
        event_type = self._require(topic)
        _check_version(document, event_type)
        try:
            event = event_type.model.model_validate(document)
        except ValidationError as error:
            raise invalid_event(topic, error, event_type.model) from error
        _check_parameters(event, event_type)
        return event

    def parse_json(self, text: str | bytes) -> Event:
        """Read an event from JSON text. Raises as `parse`, and InvalidEvent where the text is no JSON object."""
        try:
            document = pydantic_core.from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidEvent(
                "event", "event", f"is no JSON that can be read: {error}", code="invalid_value"
            ) from error
        if not isinstance(document, dict):
            raise InvalidEvent(
                "event", "event", f"must be a JSON object, not a {type(document).__name__}", code="wrong_type"
            )
        return self.parse(document)

    def parse_cloudevent(self, document: Mapping[str, object]) -> Event:
        """Read an event of any registered type from a CloudEvents JSON object. Raises as `parse`."""
        return self.parse(fields_of(document))

    def check_class(self, event: Event) -> None:
        """Check that an event is an instance of its topic's class.

        Raises: UsageError (unknown_event_type), InvalidEvent (wrong_type).
        """
        expected = self._require(event.event_type).model
        if not isinstance(event, expected):
            reason = f"belongs to {expected.__name__}, not to {type(event).__name__}"
            raise InvalidEvent(event.event_type, "event_type", reason, code="wrong_type")

    def _require(self, topic: str) -> EventType:
        event_type = self.get(topic)
        if event_type is None:
            raise unknown_event_type(topic, self.nearest(topic))
        return event_type

    def _add(self, event_type: EventType) -> None:
        with self._registering:
            known = self._types.get(event_type.topic)
            if known is not None and not _is_same(known, event_type):
                raise (built_in_already_registered if known.is_builtin else already_registered)(event_type.topic)
            if known is None:
                # A new table each time: readers never see one that changes under them.
                self._types = self._types | {event_type.topic: event_type}


def _describe(model: type[Event], *, is_builtin: bool) -> EventType:
    words = (model.__doc__ or "").strip().split("\n")[0]
    return EventType(_topic_of(model), model, words, is_builtin)


def _topic_of(model: type[Event]) -> str:
    if issubclass(model, OpenEvent):
        return f"{model.family}.*"
    topic = model.model_fields["event_type"].default
    if not isinstance(topic, str):
        raise UsageError(f"{model.__name__} binds no topic: give its event_type a Literal with that default")
    return check_topic(topic)


def _schema_of(topic: str, parameters: Mapping[str, type]) -> type[BaseModel]:
    # Aliases: a parameter's name may be any text, a pydantic field's may not.
    fields = {
        f"parameter_{number}": (parameters[name], Field(alias=name)) for number, name in enumerate(sorted(parameters))
    }
    config = ConfigDict(strict=True, extra="forbid")
    return create_model(f"Parameters of {topic}", __config__=config, **fields)  # type: ignore[call-overload, no-any-return]  # the fields are only known now


def _is_same(known: EventType, other: EventType) -> bool:
    if known.model is not other.model:
        return False
    if known.parameters is None or other.parameters is None:
        return known.parameters is other.parameters
    return known.parameters.model_json_schema() == other.parameters.model_json_schema()


def _check_can_be_declared(topic: str) -> None:
    family = f"{CustomEvent.family}."
    if not check_topic(topic).startswith(family):
        raise UsageError(f"{topic!r} cannot be declared: its events are CustomEvents; name it '{family}{topic}'")


def _check_version(document: Mapping[str, object], event_type: EventType) -> None:
    # Before all other checks: a newer version's new fields are not the sender's mistake.
    version = document.get("schema_version")
    if isinstance(version, int) and version > event_type.schema_version:
        raise newer_version(str(document["event_type"]), version, event_type.schema_version)


def _check_parameters(event: Event, event_type: EventType) -> None:
    if event_type.parameters is None or not isinstance(event.content, ParametersContent):
        return
    try:
        event_type.parameters.model_validate(event.content.parameters)
    except ValidationError as error:
        found = invalid_event(event.event_type, error)
        raise InvalidEvent(found.topic, f"content.parameters.{found.field}", found.reason, code=found.code) from error


registry = EventRegistry()
"""What this process knows; publishers and workers share it."""
