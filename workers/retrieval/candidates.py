"""What is remembered that a message may draw on: what was said in its stream, and facts its user stated elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.event import Event
from petiole.workers.retrieval.earlier import exclude_current_flow


def fact_owner(event: Event) -> str:
    """Name whose facts an event tells: its user's, in all streams, or those of its stream where it names nobody."""
    return f"user:{event.context.user_id}" if event.context.user_id else f"stream:{event.stream_id}"


def collect_candidates(
    stream_memories: Mapping[str, MemoryItem], facts: Sequence[Sequence[Fact]], flow: Sequence[Event], stream_id: str
) -> list[MemoryItem]:
    """List what may bear on a message of that stream: of each fact only the value that holds, and oldest first.

    `of_stream` are the stream's recollections by the ids of their events, `facts` the values of each, oldest first.
    """
    hold = {values[-1].source for values in facts}
    outdated = {each.source for values in facts for each in values[:-1]} - hold
    said_here = exclude_current_flow((each for key, each in stream_memories.items() if key not in outdated), flow)
    told_elsewhere = {values[-1].text: values[-1] for values in facts if values[-1].stream_id != stream_id}
    return [*(_recollection_from_fact(fact) for fact in told_elsewhere.values()), *said_here]


def _recollection_from_fact(fact: Fact) -> MemoryItem:
    if fact.subject == "user":
        return MemoryItem(role="user", text=fact.text, said_at=fact.said_at)
    # A finding may be out of date, and another conversation does not show when it was found.
    return MemoryItem(role="tool", text=f"on {fact.said_at:%Y-%m-%d}, {fact.text}", said_at=fact.said_at)
