"""EventRegistry: the known event types, their schemas, and the validation of events against them.

The types of the catalog are registered when a topic of their family is first used, because a process uses few of them.
Register your own types as classes, or declare them by topic with their parameters:

    registry.register(OrderPlacedEvent)
    registry.declare("custom.data_updated", {"entity_id": str, "field": str}, description="A record changed.")

`parse` reads the event of a caller, and rejects unknown fields, because they may be typing errors. `read` reads an
event that its publisher has validated with a schema that may be newer: it keeps unknown fields. Guide:
docs/guides/deploys.md.
"""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from petiole.events import catalog
from petiole.events.catalog.message import CustomEvent
from petiole.events.cloudevents import read_fields
from petiole.events.content import ParametersContent
from petiole.events.errors import (
    InvalidEvent,
    UsageError,
    already_registered,
    built_in_already_registered,
    newer_version,
    unknown_event_type,
)
from petiole.events.event import PUBLISHER, SIGNATURE, Event, OpenEvent
from petiole.events.revalidation import must_be_read_back
from petiole.events.texts import check_json_values
from petiole.events.topics import check_topic, is_topic
from petiole.events.upcasting import Upcaster, Upcasters
from petiole.events.validation import invalid_event

EventT = TypeVar("EventT", bound=Event)

MAX_VERSION = 2**31

UNREADABLE_HERE = frozenset({"unknown_event_type", "newer_version"})
"""Codes of the errors about an event that another version of this process may be able to read."""


@dataclass(frozen=True, slots=True)
class EventType:
    """A registered event type. `topic` is `message.*` for an open family."""

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
    """Event types by topic. Reads and registrations are thread-safe.

    `allows_undeclared` accepts `custom.*` topics that were not declared.
    """

    def __init__(self, *, allows_undeclared: bool = False) -> None:
        self.allows_undeclared: Final = allows_undeclared
        self._types: dict[str, EventType] = {}
        self._registering = threading.Lock()
        self._loaded_families: set[str] = set()
        self._upcasters = Upcasters()

    def get(self, topic: str) -> EventType | None:
        """Return the type of a topic, including topics of an open family; None if there is none."""
        event_type = self._types.get(topic)
        if event_type is not None or "." not in topic:
            return event_type
        word = topic.partition(".")[0]
        self._load(word)
        family = self._types.get(f"{word}.*")
        if family is not None and family.model is CustomEvent and not self.allows_undeclared:
            family = None
        return self._types.get(topic, family)

    def __contains__(self, topic: str) -> bool:
        """Return whether events of that topic can be published."""
        return is_topic(topic) and self.get(topic) is not None

    def all(self) -> list[EventType]:
        """List all types, sorted by topic."""
        self._load(*catalog.FILES_BY_FAMILY)
        return sorted(self._types.values(), key=lambda event_type: event_type.topic)

    def in_family(self, word: str) -> list[EventType]:
        """List the types whose topics have that first word."""
        self._load(word)
        return [event_type for topic, event_type in self._types.items() if topic.partition(".")[0] == word]

    def custom(self) -> list[EventType]:
        """List the types that are not built in."""
        return [event_type for event_type in self.all() if not event_type.is_builtin]

    def register(self, model: type[EventT]) -> type[EventT]:
        """Register an event class; usable as a decorator. Registering the same class again changes nothing.

        Raises:
            UsageError: The class has no topic, or (already_registered, built_in_already_registered) the topic has
                another class.
        """
        self._add(_describe(model, is_builtin=False))
        return model

    def load(self, module_name: str) -> None:
        """Import a module, and register the event classes that it defines. Repeating it changes nothing.

        Raises:
            UsageError: unknown_module, or as `register`. ImportError: one of its own imports fails.
        """
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # The module exists, and one of its own imports is missing: Python's message names that import.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UsageError(
                f"PETIOLE_EVENT_TYPES names the module {module_name!r}, which does not exist; correct the name, or "
                "start the process where Python finds it",
                code="unknown_module",
            ) from error
        for model in catalog.event_classes_of(module):
            self.register(model)

    def declare(
        self, topic: str, parameters: Mapping[str, type] | type[BaseModel], *, description: str = ""
    ) -> EventType:
        """Declare a `custom.*` topic. Its events are CustomEvents with these parameters.

        Args:
            topic: A topic below `custom.`.
            parameters: Names and types, all required; or a pydantic model if some are optional.
            description: One sentence for `petiole schema`.

        Raises:
            UsageError: (invalid_topic, already_registered, built_in_already_registered), or the topic is outside
                `custom.*`.
        """
        _check_can_be_declared(topic)
        schema = parameters if isinstance(parameters, type) else _build_schema(topic, parameters)
        declared = EventType(topic, CustomEvent, description, is_builtin=False, parameters=schema)
        self._add(declared)
        return declared

    def nearest(self, topic: str) -> str | None:
        """Return the registered topic that is most similar to this one; None if none is. Ignores open families."""
        topics = [event_type.topic for event_type in self.all() if not event_type.topic.endswith("*")]
        matches = difflib.get_close_matches(topic, topics, n=1, cutoff=0.6)
        return matches[0] if matches else None

    def upcaster(self, topic: str, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Register a function that converts the content of a version to the next one (events/upcasting.py).

        Raises:
            UsageError: the version has another upcaster, or is below 1.
        """

        def register(function: Upcaster) -> Upcaster:
            self._upcasters.add(topic, from_version, function)
            return function

        return register

    def oldest_version(self, topic: str) -> int:
        """Return the oldest schema version of a topic whose events this process converts to its own version."""
        return self._upcasters.oldest_version(topic) or self.version_of(topic) or 1

    def check_upcasters(self) -> list[str]:
        """Describe what is wrong with the chains of upcasters; a worker does not start then."""
        return list(self._upcasters.problems(self.version_of))

    def version_of(self, topic: str) -> int | None:
        """Return the schema version of a topic that this process writes; None if it does not know the topic."""
        event_type = self.get(topic) if is_topic(topic) else None
        return None if event_type is None else event_type.schema_version

    def parse(self, document: Mapping[str, object]) -> Event:
        """Parse a caller's JSON object to an event of its type's class.

        An older version is upcast. A newer one may have unknown fields, as for `read`.

        Raises:
            UsageError: (unknown_event_type) the topic is not registered.
            InvalidEvent: (missing_field, unknown_field, wrong_type, invalid_value) the event breaks its schema;
                (newer_version) it has a newer version, and breaks the schema that this process has.
        """
        return self._parse(document, allows_unknown_fields=False)

    def read(self, document: Mapping[str, object]) -> Event:
        """Parse the JSON object of an event that its publisher has validated. Unknown fields are kept.

        A class with `is_strict` keeps none. Raises as `parse`.
        """
        return self._parse(document, allows_unknown_fields=True)

    def read_unknown(self, document: object) -> Event:
        """Read an event of a type that is not registered: its content's fields are in `model_extra`.

        Raises:
            InvalidEvent: a field that all events have is missing or invalid.
        """
        try:
            return Event.model_validate(document, extra="allow")
        except ValidationError as error:
            raise invalid_event("event", error, Event) from error

    def parse_json(self, text: str | bytes) -> Event:
        """Parse a caller's JSON text to an event. Raises as `parse`, and InvalidEvent if it is not a JSON object."""
        return self.parse(_parse_object(text))

    def read_json(self, text: str | bytes) -> Event:
        """Parse the JSON text of an event that its publisher has validated. Raises as `parse_json`."""
        return self.read(_parse_object(text))

    def read_back(self, event: Event, text: str) -> Event:
        """Parse the JSON text of an instance that `check` could not vouch for. Raises as `parse`."""
        is_own_class = type(event) is self._require(event.event_type).model
        # Unknown fields of an instance of the class itself were kept when it was read.
        return self.read_json(text) if is_own_class else self.parse_json(text)

    def read_known(self, documents: Iterable[Mapping[str, object]]) -> list[Event]:
        """Read recorded events. Leaves out those of types and versions that this process cannot read."""
        events = []
        for document in documents:
            try:
                events.append(self.read(document))
            except UsageError as error:
                if error.code not in UNREADABLE_HERE:
                    raise
        return events

    def parse_cloudevent(self, document: Mapping[str, object]) -> Event:
        """Parse a CloudEvents JSON object to an event of any registered type. Raises as `parse`."""
        return self.parse(read_fields(document))

    def check(self, event: Event) -> bool:
        """Check that an event is an instance of its topic's class; return whether it is certainly valid.

        If it is not, read it back from its JSON: `read_back`.

        Raises:
            UsageError: (unknown_event_type) the topic is not registered.
            InvalidEvent: (wrong_type) the event has another class. The type of an event that is otherwise valid was
                declared with other parameters, or (newer_version) has an older schema.
        """
        event_type = self._require(event.event_type)
        expected = event_type.model
        if not isinstance(event, expected):
            reason = f"belongs to {expected.__name__}, not to {type(event).__name__}; use that class"
            raise InvalidEvent(event.event_type, "event_type", reason, code="wrong_type")
        if type(event) is not expected or must_be_read_back(event):
            return False
        if event.model_extra is None and event.schema_version > event_type.schema_version:
            # Made here, and not read from a newer publisher.
            raise newer_version(event.event_type, event.schema_version, event_type.schema_version)
        _check_parameters(event, event_type)
        return True

    def _parse(self, document: Mapping[str, object], *, allows_unknown_fields: bool) -> Event:
        topic = _read_topic(document)
        event_type = self._require(topic)
        if PUBLISHER in document:
            document = {name: value for name, value in document.items() if name not in (PUBLISHER, SIGNATURE)}
        document = self._upcasters.upcast(topic, document)
        newer = _newer_version_of(document, event_type)
        allows = (allows_unknown_fields or newer is not None) and not event_type.model.is_strict
        if newer is not None:
            # Set afterwards, because the class may allow only its own version.
            document = {name: value for name, value in document.items() if name != "schema_version"}
        try:
            event = _validate(event_type.model, document, is_newer=newer is not None, allows_unknown_fields=allows)
            _check_parameters(event, event_type, allows_unknown=allows)
        except (ValidationError, InvalidEvent) as error:
            if newer is not None:
                raise newer_version(topic, newer, event_type.schema_version) from error
            if isinstance(error, InvalidEvent):
                raise
            raise invalid_event(topic, error, event_type.model) from error
        return event if newer is None else event.copy_with_valid({"schema_version": newer})

    def _require(self, topic: str) -> EventType:
        event_type = self.get(topic)
        if event_type is None:
            raise unknown_event_type(topic, self.nearest(topic))
        return event_type

    def _load(self, *families: str) -> None:
        """Register the catalog's types of families. Several threads may do so at once, because a repeat is harmless."""
        missing = catalog.FILES_BY_FAMILY.keys() & (set(families) - self._loaded_families)
        for model in catalog.event_classes(*missing) if missing else ():
            self._put(_describe(model, is_builtin=True))
        self._loaded_families |= missing

    def _add(self, event_type: EventType) -> None:
        self._load(event_type.topic.partition(".")[0])
        self._put(event_type)

    def _put(self, event_type: EventType) -> None:
        with self._registering:
            known = self._types.get(event_type.topic)
            if known is not None and not _is_same(known, event_type):
                raise (built_in_already_registered if known.is_builtin else already_registered)(event_type.topic)
            if known is None:
                # A new dict for each change, so that readers need no lock.
                self._types = self._types | {event_type.topic: event_type}


def _describe(model: type[Event], *, is_builtin: bool) -> EventType:
    description = (model.__doc__ or "").strip().split("\n")[0]
    return EventType(_topic_of(model), model, description, is_builtin)


def _topic_of(model: type[Event]) -> str:
    if issubclass(model, OpenEvent):
        return f"{model.family}.*"
    topic = model.model_fields["event_type"].default
    if not isinstance(topic, str):
        raise UsageError(f"{model.__name__} has no topic; declare its event_type as a Literal with that default")
    return check_topic(topic)


def _build_schema(topic: str, parameters: Mapping[str, type]) -> type[BaseModel]:
    # Aliases, because a parameter's name may be any text, but a pydantic field's name may not.
    fields = {
        f"parameter_{number}": (parameters[name], Field(alias=name)) for number, name in enumerate(sorted(parameters))
    }
    config = ConfigDict(strict=True, extra="forbid")
    return create_model(f"Parameters of {topic}", __config__=config, **fields)  # type: ignore[call-overload, no-any-return]  # the fields are known only at run time


def _is_same(known: EventType, other: EventType) -> bool:
    if known.model is not other.model:
        return False
    if known.parameters is None or other.parameters is None:
        return known.parameters is other.parameters
    return known.parameters.model_json_schema() == other.parameters.model_json_schema()


def _check_can_be_declared(topic: str) -> None:
    family = f"{CustomEvent.family}."
    if not check_topic(topic).startswith(family):
        raise UsageError(
            f"{topic!r} cannot be declared, because declared events are CustomEvents; name it '{family}{topic}'"
        )


def _parse_object(text: str | bytes) -> dict[str, object]:
    try:
        check_json_values(text)
        document = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidEvent("event", "event", f"is not valid JSON: {error}", code="invalid_value") from error
    if not isinstance(document, dict):
        raise InvalidEvent(
            "event", "event", f"must be a JSON object, not a {type(document).__name__}", code="wrong_type"
        )
    return document


def _read_topic(document: Mapping[str, object]) -> str:
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
    return topic


def _validate(
    model: type[Event], document: Mapping[str, object], *, is_newer: bool, allows_unknown_fields: bool
) -> Event:
    if not (is_newer and allows_unknown_fields):
        try:
            return model.model_validate(document)
        except ValidationError:
            if not allows_unknown_fields:
                raise
    # Pydantic takes an instance that may have unknown fields for another one than the same without.
    return model.model_validate(document, extra="allow")


def _newer_version_of(document: Mapping[str, object], event_type: EventType) -> int | None:
    """Return the schema version of an event if it is newer than that of this process."""
    version = document.get("schema_version")
    is_newer = isinstance(version, int) and event_type.schema_version < version <= MAX_VERSION
    return version if is_newer else None  # type: ignore[return-value]  # an integer


def _check_parameters(event: Event, event_type: EventType, *, allows_unknown: bool = False) -> None:
    if event_type.parameters is None or not isinstance(event.content, ParametersContent):
        return
    try:
        event_type.parameters.model_validate(event.content.parameters, extra="allow" if allows_unknown else None)
    except ValidationError as error:
        invalid = invalid_event(event.event_type, error)
        field = f"content.parameters.{invalid.field}"
        raise InvalidEvent(invalid.topic, field, invalid.reason, code=invalid.code) from error


registry = EventRegistry()
"""The registry of this process, shared by publishers and workers."""
