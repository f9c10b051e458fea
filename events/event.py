"""Event: identity, context and a typed content in one frozen value.

There are three ways to create one: construct a class of the catalog, derive it from another event
(`event.caused(...)`), or parse JSON with the registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Self, TypedDict, TypeVar, Unpack

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
)

from petiole.events import clock
from petiole.events.cloudevents import read_fields, write_cloudevent
from petiole.events.content import Content, Count, FrozenModel, Parameters
from petiole.events.errors import UsageError
from petiole.events.ids import AgentName, EventId, StreamId, Traceparent, new_event_id, new_traceparent
from petiole.events.topics import Topic
from petiole.events.validation import invalid_event

PUBLISHER = "publisher"
SIGNATURE = "signature"
"""Members of an event's JSON that are no fields of it: who published it, and what proves it (tasks/trust/)."""

MAX_PRIORITY = 9
MIN_PRIORITY = 0

_NUMBER = re.compile(r"\s*[-+]?[\d.]+\s*")


class Category(StrEnum):
    """The kind of an event."""

    SYSTEM = "system"
    AGENT = "agent"
    REQUEST = "request"
    RESPONSE = "response"
    COMPONENT = "component"
    ERROR = "error"
    INPUT = "input"
    PROCESSING = "processing"
    OUTPUT = "output"


def _reject_number(moment: object) -> object:
    if isinstance(moment, int | float) or (isinstance(moment, str) and _NUMBER.fullmatch(moment)):
        raise ValueError("is a number; write the time as ISO 8601, such as 2026-01-31T12:00:00Z")
    return moment


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC; give a time within them") from None


UtcDatetime = Annotated[AwareDatetime, BeforeValidator(_reject_number), AfterValidator(_to_utc)]
"""A point in time with a time zone, converted to UTC."""


def _default_correlation_id(fields: Mapping[str, object]) -> str:
    # The id is present, because pydantic calls this only if every field before it was valid.
    return str(fields["event_id"])


def _default_traceparent(fields: Mapping[str, object]) -> str:
    return new_traceparent(str(fields["event_id"]))


class EventContext(FrozenModel):
    """The origin and the user of a flow. Every event of the flow has the same context."""

    source: Annotated[str, Field(min_length=1, max_length=255)] = "petiole"
    user_id: str | None = None
    session_id: str | None = None
    extra: Parameters = Field(default_factory=dict)


EventT = TypeVar("EventT", bound="Event")


class EventFields(TypedDict, total=False):
    """The fields that every event has; the keyword arguments of `caused` for type checkers."""

    event_id: str
    event_type: str
    stream_id: str
    timestamp: datetime | str
    content: Content | Mapping[str, object]
    context: EventContext | Mapping[str, object]
    correlation_id: str
    causation_id: str | None
    traceparent: str
    hops: int
    path: Sequence[str]
    priority: int
    expires_at: datetime | str | None
    schema_version: int


class Event(FrozenModel):
    """Base class of all events: a frozen record of something that happened.

    Only `stream_id` and `content` have no default. Subclasses bind `event_type` to a topic, `content` to a class, and
    set `category`.
    """

    category: ClassVar[Category] = Category.AGENT
    is_strict: ClassVar[bool] = False
    """Whether a delivery waits for a newer worker if a newer version of its event has unknown fields."""

    event_id: EventId = Field(default_factory=new_event_id)
    event_type: Topic
    stream_id: StreamId = Field(description="the conversation or session")
    timestamp: UtcDatetime = Field(default_factory=clock.now)
    content: Content
    context: EventContext = Field(default_factory=EventContext)
    correlation_id: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default_factory=_default_correlation_id,
        description="the flow that this event belongs to; by default the event starts one",
    )
    causation_id: EventId | None = Field(default=None, description="the event that caused this one")
    traceparent: Traceparent = Field(
        default_factory=_default_traceparent,
        description="W3C trace context: that of the event's cause until the event is published, then its own",
    )
    hops: Count = Field(default=0, description="number of causing events between this one and its origin")
    path: tuple[AgentName, ...] = Field(
        default=(), description="agents whose events led to this one, each once, the most recent last"
    )
    priority: Annotated[int, Field(strict=True, ge=MIN_PRIORITY, le=MAX_PRIORITY)] = 5
    expires_at: UtcDatetime | None = None
    schema_version: Annotated[Count, Field(ge=1)] = 1

    @property
    def trace_id(self) -> str:
        """The W3C trace id: 32 hexadecimal digits."""
        return self.traceparent.split("-")[1]

    def has_expired(self, at: datetime) -> bool:
        """Return whether the event has expired at that time."""
        return self.expires_at is not None and self.expires_at <= at

    def caused(self, event_class: type[EventT], **fields: Unpack[EventFields]) -> EventT:
        """Build an event that this one caused.

        Copies stream, context, correlation id, trace and path; sets causation id and hops.

        Args:
            event_class: The class of the new event.
            **fields: The content, and any other field; they override the copied values.

        Raises:
            InvalidEvent: The fields do not match the class.
        """
        copied: EventFields = {
            "stream_id": self.stream_id,
            "context": self.context,
            "correlation_id": self.correlation_id,
            "causation_id": self.event_id,
            "traceparent": self.traceparent,
            "hops": self.hops + 1,
            "path": self.path,
        }
        try:
            return event_class.model_validate(copied | fields)
        except ValidationError as error:
            topic = fields.get("event_type") or event_class.model_fields["event_type"].default
            raise invalid_event(
                topic if isinstance(topic, str) else event_class.__name__, error, event_class
            ) from error

    def to_cloudevent(self) -> dict[str, object]:
        """Convert this event to a CloudEvents 1.0 JSON object."""
        return write_cloudevent(self.model_dump(mode="json"))

    @classmethod
    def from_cloudevent(cls, document: Mapping[str, object]) -> Self:
        """Parse a CloudEvents 1.0 JSON object as an event of this class.

        Raises:
            InvalidEvent: The document is not a CloudEvent, or does not match this class.
            UsageError: Called on Event, which has no content class. `registry.parse_cloudevent` parses every
                registered class.
        """
        if cls is Event:
            raise UsageError(
                "Event has no content class; call registry.parse_cloudevent, or from_cloudevent of a subclass"
            )
        try:
            return cls.model_validate(read_fields(document))
        except ValidationError as error:
            raise invalid_event(str(document.get("type")), error) from error


class OpenEvent(Event):
    """An event of an open family: every topic that starts with the word `family` is one of its types."""

    family: ClassVar[str]

    @field_validator("event_type")
    @classmethod
    def _belongs_to_family(cls, topic: str) -> str:
        if not topic.startswith(f"{cls.family}."):
            raise ValueError(f"must be a topic below {cls.family!r}, such as '{cls.family}.something'")
        return topic
