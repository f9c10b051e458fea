"""Subscription: who wants to hear what, as a value that any process can keep, send and match against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from events.ids import AgentName
from events.topics import check_pattern

Pattern = Annotated[str, AfterValidator(check_pattern)]

FUNCTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"


Overflow = Literal["block", "reject", "drop_oldest"]
"""What a publisher meets at a full queue: it waits for room, it is refused, or the oldest delivery gives way."""


OrderingPath = Annotated[str, Field(pattern=r"^[a-z_]+(\.[^.]+)*$", max_length=200)]
"""A dotted path into an event's JSON, such as `stream_id` or `content.parameters.account`."""


class Subscription(BaseModel):
    """One handler's claim on events: an agent's function, and the patterns it hears.

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

    @property
    def name(self) -> str:
        """The subscription's name, which is also its Celery task's."""
        return f"{self.agent}.{self.function}"

    def mailbox_for(self, document: Mapping[str, object]) -> str | None:
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
