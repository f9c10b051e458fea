"""Subscription: who wants to hear what, as a value that any process can keep, send and match against."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from events.ids import AgentName
from events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"


class Subscription(BaseModel):
    """One handler's claim on events: an agent's function, and the patterns it hears.

    However many of its patterns match an event, the event is delivered to it once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: AgentName
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
