"""Subscription: who wants to hear what, as a value that any process can keep, send and match against."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from events.ids import AgentName
from events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"


Overflow = Literal["block", "reject", "drop_oldest"]
"""What a publisher meets at a full queue: it waits for room, it is refused, or the oldest delivery gives way."""


class Subscription(BaseModel):
    """One handler's claim on events: an agent's function, and the patterns it hears.

    However many of its patterns match an event, the event is delivered to it once. `capacity` is its agent's: how many
    deliveries may wait in the queue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: AgentName
    capacity: Annotated[int, Field(strict=True, ge=1)] | None = None
    overflow: Overflow = "block"
    function: Annotated[str, Field(pattern=FUNCTION_NAME)]
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)]

    @property
    def name(self) -> str:
        """The subscription's name, which is also its Celery task's."""
        return f"{self.agent}.{self.function}"

    @property
    def queue(self) -> str:
        """The queue its deliveries wait in: one for each agent."""
        return self.agent
