"""Subscription: who wants to hear what, as a value that any process can keep, send and match against."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from petiole.events.conditions import FilterConditions, check_conditions
from petiole.events.content import Flag
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY, Event
from petiole.events.ids import AgentName
from petiole.events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
VARIANT_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$"

Weight = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
VariantName = Annotated[str, Field(pattern=VARIANT_NAME)]


Overflow = Literal["block", "reject", "drop_oldest"]
"""What a publisher meets at a full queue: it waits for room, it is refused, or the oldest delivery gives way."""


OnBusy = Literal["enqueue", "reject", "interrupt"]
"""What a newer message of the user does while an answer of its stream is written: tasks/streaming/writer.py."""


OrderingPath = Annotated[str, Field(pattern=r"^[a-z_]+(\.[^.]+)*$", max_length=200)]
"""A dotted path into an event's JSON, such as `stream_id` or `content.parameters.account`."""


class Subscription(BaseModel):
    """One handler's claim on events: an agent's function, the patterns it hears, and on which terms.

    However many of its patterns match an event, the event is delivered to it once. With `ordered_by`, events that agree
    on that field are handled one at a time, in the order of their publication. `capacity` is its agent's: how many
    deliveries may wait in the queue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: AgentName
    ordered_by: OrderingPath | None = None
    capacity: Annotated[int, Field(strict=True, ge=1)] | None = None
    overflow: Overflow = "block"
    function: Annotated[str, Field(pattern=FUNCTION_NAME)]
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    where: Annotated[FilterConditions, PlainValidator(check_conditions)] = Field(
        default_factory=dict, description="conditions on the event's JSON; all have to hold"
    )
    priority: Annotated[int, Field(strict=True, ge=MIN_PRIORITY, le=MAX_PRIORITY)] | None = Field(
        default=None, description="of its deliveries, instead of the event's"
    )
    expires: Annotated[timedelta, Field(gt=timedelta(0))] | None = Field(
        default=None, description="how long after the event's timestamp its handling may begin"
    )
    split: VariantName | None = Field(default=None, description="of this agent's variants of one split, one gets it")
    variant: VariantName | None = None
    weight: Weight | None = Field(default=None, description="percent of the streams; without it, a share of the rest")
    on_busy: OnBusy | None = Field(default=None, description="of handlers that write drafts, when the user says more")
    shadow: Flag = Field(default=False, description="gets every event, and what it says is not published")

    @property
    def name(self) -> str:
        """The subscription's name, which is also its Celery task's."""
        return f"{self.agent}.{self.function}"

    def message_group_for(self, document: Mapping[str, object]) -> str | None:
        """Name the mailbox that an event (as JSON) waits in for its turn; None where order does not matter.

        Events without the field share one mailbox.
        """
        if self.ordered_by is None:
            return None
        found: object = document
        for step in self.ordered_by.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        return f"{self.name}:{found}"

    @property
    def queue(self) -> str:
        """The queue its deliveries wait in: one for each agent."""
        return self.agent

    def expires_at(self, event: Event) -> datetime | None:
        """Tell when a delivery of the event is out of date: when the event is, or `expires` after it happened."""
        ends = [event.expires_at] if event.expires_at else []
        if self.expires is not None and self.expires < datetime.max.replace(tzinfo=UTC) - event.timestamp:
            ends.append(event.timestamp + self.expires)
        return min(ends, default=None)

    @model_validator(mode="after")
    def _check_split_options(self) -> Self:
        if (self.split is None) is not (self.variant is None):
            raise ValueError("a variant belongs to a split, and a split has variants; name both")
        if self.weight is not None and (self.split is None or self.shadow):
            raise ValueError("a weight is a share of a split; a shadow gets every event and has none")
        return self
