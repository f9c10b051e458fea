"""Candidates: the memories that a message may use, from its stream and from facts of its user in other streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.event import Event
from petiole.workers.retrieval.earlier import exclude_current_flow


def fact_owner(event: Event) -> str:
    """Return the owner of an event's facts: its user, in all streams, or its stream if the event has no user."""
    return f"user:{event.context.user_id}" if event.context.user_id else f"stream:{event.stream_id}"


def collect_candidates(
    stream_memories: Mapping[str, MemoryItem], facts: Sequence[Sequence[Fact]], flow: Sequence[Event], stream_id: str
) -> list[MemoryItem]:
    """List the candidates for a message of this stream, oldest first, with only the current value of each fact.

    Args:
        stream_memories: The memories of the stream, by event id.
        facts: For each fact its values, oldest first.
        flow: The events of the message's flow, which are left out.
        stream_id: The stream of the message.
    """
    current_sources = {values[-1].source for values in facts}
    outdated_sources = {value.source for values in facts for value in values[:-1]} - current_sources
    current_memories = (memory for source, memory in stream_memories.items() if source not in outdated_sources)
    other_streams = {values[-1].text: values[-1] for values in facts if values[-1].stream_id != stream_id}
    return [*map(_memory_from_fact, other_streams.values()), *exclude_current_flow(current_memories, flow)]


def _memory_from_fact(fact: Fact) -> MemoryItem:
    if fact.subject == "user":
        return MemoryItem(role="user", text=fact.text, said_at=fact.said_at)
    # With its date, because the result of a tool in another conversation may be out of date.
    return MemoryItem(role="tool", text=f"on {fact.said_at:%Y-%m-%d}, {fact.text}", said_at=fact.said_at)
