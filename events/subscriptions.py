"""Subscription: who wants to hear what, as a value that any process can keep, send and match against."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from events.conditions import Where, check_where
from events.content import Flag
from events.event import LEAST_URGENT, MOST_URGENT, Event
from events.ids import AgentName
from events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
VARIANT_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$"

Weight = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
VariantName = Annotated[str, Field(pattern=VARIANT_NAME)]


class Subscription(BaseModel):
    """One handler's claim on events: an agent's function, the patterns it hears, and on which terms.

    However many of its patterns match an event, the event is delivered to it once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: AgentName
    function: Annotated[str, Field(pattern=FUNCTION_NAME)]
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    where: Annotated[Where, PlainValidator(check_where)] = Field(
        default_factory=dict, description="conditions on the event's JSON; all have to hold"
    )
    priority: Annotated[int, Field(strict=True, ge=LEAST_URGENT, le=MOST_URGENT)] | None = Field(
        default=None, description="of its deliveries, instead of the event's"
    )
    expires: Annotated[timedelta, Field(gt=timedelta(0))] | None = Field(
        default=None, description="how long after the event's timestamp its handling may begin"
    )
    split: VariantName | None = Field(default=None, description="of this agent's variants of one split, one gets it")
    variant: VariantName | None = None
    weight: Weight | None = Field(default=None, description="percent of the streams; without it, a share of the rest")
    shadow: Flag = Field(default=False, description="gets every event, and what it says is not published")

    @property
    def name(self) -> str:
        """The subscription's name, which is also its Celery task's."""
        return f"{self.agent}.{self.function}"

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
    def _is_of_one_split(self) -> Self:
        if (self.split is None) is not (self.variant is None):
            raise ValueError("a variant belongs to a split, and a split has variants; name both")
        if self.weight is not None and (self.split is None or self.shadow):
            raise ValueError("a weight is a share of a split; a shadow gets every event and has none")
        return self
