"""Subscription: a handler's patterns, filter and options, as a value that every process can store and match."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from petiole.events.conditions import FilterConditions, check_conditions
from petiole.events.content import Duration, Flag
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY, Event
from petiole.events.ids import AgentName
from petiole.events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
VARIANT_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$"

Weight = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
VariantName = Annotated[str, Field(strict=True, pattern=VARIANT_NAME)]


Capacity = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
"""The most deliveries that may wait in a queue."""

Overflow = Literal["block", "reject", "drop_oldest"]
"""What happens if the queue is full: the publisher waits, gets QueueFull, or the oldest delivery is dropped."""


OnBusy = Literal["enqueue", "reject", "interrupt"]
"""What happens if a message arrives while a response of its stream is being written: tasks/streaming/writer.py."""


OrderingPath = Annotated[str, Field(strict=True, pattern=r"^[a-z_]+(\.[^.]+)*$", max_length=200)]
"""A dotted path into an event's JSON, such as `stream_id` or `content.parameters.account`."""


class Subscription(BaseModel):
    """One handler's subscription: an agent's function, its patterns, and its delivery options.

    An event is delivered once, even if several patterns match. With `ordered_by`, events with the same value in that
    field are handled one at a time, in the order of publication. `capacity` is the most deliveries that may wait in the
    agent's queue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    agent: AgentName
    ordered_by: OrderingPath | None = None
    capacity: Capacity | None = None
    overflow: Overflow = "block"
    function: Annotated[str, Field(pattern=FUNCTION_NAME)]
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    where: Annotated[FilterConditions, PlainValidator(check_conditions)] = Field(
        default_factory=dict, description="conditions on the event's JSON; all must hold"
    )
    priority: Annotated[int, Field(strict=True, ge=MIN_PRIORITY, le=MAX_PRIORITY)] | None = Field(
        default=None, description="priority of its deliveries, instead of the event's"
    )
    expires: Annotated[Duration, Field(gt=timedelta(0))] | None = Field(
        default=None, description="how long after the event's timestamp a delivery may start"
    )
    split: VariantName | None = Field(
        default=None, description="name of a traffic split; one of its variants gets each event"
    )
    variant: VariantName | None = None
    weight: Weight | None = Field(
        default=None, description="percent of the streams; by default an equal share of the rest"
    )
    on_busy: OnBusy | None = Field(
        default=None, description="for handlers that stream a response: what a newer message does"
    )
    shadow: Flag = Field(default=False, description="gets every event, and its own events are not published")

    @property
    def name(self) -> str:
        """The subscription's name, which is also its Celery task's."""
        return f"{self.agent}.{self.function}"

    def message_group_for(self, document: Mapping[str, object]) -> str | None:
        """Return the message group of an event (as JSON); None without `ordered_by`.

        Events without the field share one message group.
        """
        if self.ordered_by is None:
            return None
        value: object = document
        for name in self.ordered_by.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return f"{self.name}:{value}"

    @property
    def queue(self) -> str:
        """The queue of its deliveries. Each agent has one queue."""
        return self.agent

    def expires_at(self, event: Event) -> datetime | None:
        """Return when a delivery of the event expires: the event's expiry, or `expires` after its timestamp."""
        ends = [event.expires_at] if event.expires_at else []
        if self.expires is not None and self.expires < datetime.max.replace(tzinfo=UTC) - event.timestamp:
            ends.append(event.timestamp + self.expires)
        return min(ends, default=None)

    @model_validator(mode="after")
    def _check_split_options(self) -> Self:
        if (self.split is None) is not (self.variant is None):
            raise ValueError("a split needs a variant and a variant needs a split; give both")
        if self.weight is not None and (self.split is None or self.shadow):
            raise ValueError(
                "a weight is a share of a split, a shadow gets every event; use a split without shadow, or no weight"
            )
        return self
