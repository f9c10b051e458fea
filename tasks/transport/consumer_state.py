"""What a consumer leases, apart from its connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from petiole.tasks.transport.commands import GiveBack
from petiole.tasks.transport.consumer_id import new_consumer_id


@dataclass(slots=True)
class ConsumerState:
    """What a consumer leases; a worker keeps it over any number of connections.

    `unsettled` has the tags of deliveries that were handed over, `acks` those to acknowledge, `returns` those
    that could not be given back. A fetch whose reply was not read leases tags from `first_tag_sent`.
    """

    consumer_id: str = field(default_factory=new_consumer_id)
    next_tag: int = 1
    first_tag_sent: int | None = None
    unsettled: set[str] = field(default_factory=set)
    acks: list[str] = field(default_factory=list)
    acks_sent: list[str] = field(default_factory=list)
    returns: deque[tuple[Sequence[str], GiveBack]] = field(default_factory=deque)

    def settle(self, tags: Collection[str]) -> None:
        """Forget deliveries that were handed over."""
        self.unsettled.difference_update(tags)
