"""Event: identity, context and a typed content in one frozen value.

Three ways to one: construct a class of the catalog, let an event cause another (`event.caused(...)`), or read JSON
through the registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Self, TypedDict, TypeVar, Unpack, dataclass_transform

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from petiole.events.cloudevents import fields_of, write_cloudevent
from petiole.events.content import Content, Count, Parameters
from petiole.events.errors import UsageError
from petiole.events.ids import AgentName, EventId, StreamId, Traceparent, new_event_id, new_traceparent
from petiole.events.topics import Topic
from petiole.events.validation import invalid_event

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

MOST_URGENT = 9
LEAST_URGENT = 0

_NUMBER = re.compile(r"\s*[-+]?[\d.]+\s*")


class Category(StrEnum):
    """The kind of an event, as both founding designs divide them."""

    SYSTEM = "system"
    AGENT = "agent"
    REQUEST = "request"
    RESPONSE = "response"
    COMPONENT = "component"
    ERROR = "error"
    INPUT = "input"
    PROCESSING = "processing"
    OUTPUT = "output"


def _no_number(moment: object) -> object:
    if isinstance(moment, int | float) or (isinstance(moment, str) and _NUMBER.fullmatch(moment)):
        raise ValueError("is a number; write the time as ISO 8601, such as 2026-01-31T12:00:00Z")
    return moment


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 once it is in UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_in_utc)]
"""A point in time with its zone, kept in UTC."""


def _now() -> datetime:
    return datetime.now(UTC)


def _own_id(fields: Mapping[str, object]) -> str:
    # The id is there: pydantic calls this only where every field before it was valid.
    return str(fields["event_id"])


class EventContext(BaseModel):
    """Where a flow of events began and for whom; carried unchanged by every event that follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(min_length=1, max_length=255)] = "petiole"
    user_id: str | None = None
    session_id: str | None = None
    extra: Parameters = Field(default_factory=dict)


AnEvent = TypeVar("AnEvent", bound="Event")


class EventFields(TypedDict, total=False):
    """The fields that every event has, for type checkers: what `caused` may be given."""

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


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, PrivateAttr))
class EventMeta(ModelMetaclass):
    """Pydantic's metaclass. Tells type checkers that events are frozen: a subclass may narrow the type of a field."""


class Event(BaseModel, metaclass=EventMeta):
    """What happened, once, to whom, and because of what.

    Only `stream_id` and `content` have no default. Subclasses bind `event_type` to a topic and `content` to a class;
    `category` says what kind of event they are.
    """

    # A schema is built when it is first used: a process knows many types, and reads a few.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    category: ClassVar[Category] = Category.AGENT

    event_id: EventId = Field(default_factory=new_event_id)
    event_type: Topic
    stream_id: StreamId = Field(description="the conversation or session")
    timestamp: Moment = Field(default_factory=_now)
    content: Content
    context: EventContext = Field(default_factory=EventContext)
    correlation_id: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default_factory=_own_id, description="the flow this belongs to; by default one that begins here"
    )
    causation_id: EventId | None = Field(default=None, description="the event that caused this one")
    traceparent: Traceparent = Field(default_factory=new_traceparent, description="W3C trace context")
    hops: Count = Field(default=0, description="causes in a row before this one")
    path: tuple[AgentName, ...] = Field(
        default=(), description="agents that led here, each once, the last to speak last"
    )
    priority: Annotated[int, Field(strict=True, ge=LEAST_URGENT, le=MOST_URGENT)] = 5
    expires_at: Moment | None = None
    schema_version: Annotated[Count, Field(ge=1)] = 1

    @property
    def trace_id(self) -> str:
        """The W3C trace id: 32 hexadecimal digits."""
        return self.traceparent.split("-")[1]

    def has_expired(self, at: datetime) -> bool:
        """Tell whether the event is out of date at that time."""
        return self.expires_at is not None and self.expires_at <= at

    def caused(self, kind: type[AnEvent], **fields: Unpack[EventFields]) -> AnEvent:
        """Make the event of class `kind` that follows from this one.

        Stream, context, correlation, trace and path are copied, causation and hops set; `fields` add the content
        and may replace what is copied. Raises InvalidEvent for fields that `kind` refuses.
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
            return kind.model_validate(copied | fields)
        except ValidationError as error:
            topic = fields.get("event_type") or kind.model_fields["event_type"].default
            raise invalid_event(topic if isinstance(topic, str) else kind.__name__, error, kind) from error

    def to_cloudevent(self) -> dict[str, object]:
        """Write this event as a CloudEvents 1.0 JSON object."""
        return write_cloudevent(self.model_dump(mode="json"))

    @classmethod
    def from_cloudevent(cls, document: Mapping[str, object]) -> Self:
        """Read a CloudEvents 1.0 JSON object as an event of this class.

        Raises: InvalidEvent where the document is no CloudEvent, or not one of this class; UsageError on Event itself,
        which knows no contents: `registry.parse_cloudevent` reads every registered class.
        """
        if cls is Event:
            raise UsageError(
                "Event has no content of its own: call registry.parse_cloudevent, or a class's from_cloudevent"
            )
        try:
            return cls.model_validate(fields_of(document))
        except ValidationError as error:
            raise invalid_event(str(document.get("type")), error) from error


class OpenEvent(Event):
    """An event of an open family: any topic below the word `family` is one of its types."""

    family: ClassVar[str]

    @field_validator("event_type")
    @classmethod
    def _belongs_to_family(cls, topic: str) -> str:
        if not topic.startswith(f"{cls.family}."):
            raise ValueError(f"must be a topic below {cls.family!r}, such as '{cls.family}.something'")
        return topic
