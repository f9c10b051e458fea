"""Candidates: the memories that a message may use, from its stream and from facts of its user in other streams."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.event import Event

_FIRST_PERSON: Final = re.compile(r"\b(?:i|me|my|mine|myself)\b", re.IGNORECASE)


def fact_owner(event: Event) -> str:
    """Return the owner of an event's facts: its user, in all streams, or its stream if the event has no user."""
    return f"user:{event.context.user_id}" if event.context.user_id else f"stream:{event.stream_id}"


def collect_candidates(
    stream_memories: Mapping[str, MemoryItem],
    facts: Sequence[Sequence[Fact]],
    message: Event,
    query: str = "",
) -> list[MemoryItem]:
    """List the candidates for a message, oldest first, with only the current value of each fact.

    What another user of the stream said is left out if the query asks about its own speaker: "what is my name?".

    Args:
        stream_memories: The memories of the message's stream, by event id.
        facts: For each fact of the user its values, oldest first.
        message: The message, or an event of its flow. The memories of this flow are left out.
        query: What is searched for.
    """
    stated = [values for values in facts if values[-1].subject == "user"]
    outdated_sources = {value.source for values in stated for value in values[:-1]}
    user_id, is_personal = message.context.user_id, _FIRST_PERSON.search(query) is not None
    of_stream = [
        memory
        for source, stored in stream_memories.items()
        if (memory := _without_outdated(source, stored, stated) if source in outdated_sources else stored)
        and memory.flow != message.correlation_id
        and not (is_personal and is_of_another_user(memory, user_id))
    ]
    elsewhere = {
        fact.text: MemoryItem(role="user", text=fact.text, said_at=fact.said_at, said_by=user_id)
        for fact in (values[-1] for values in stated)
        if not _is_stated_in(fact, stream_memories) and fact.source != message.causation_id
    }
    return [*elsewhere.values(), *of_stream]


def _without_outdated(source: str, memory: MemoryItem, stated: Sequence[Sequence[Fact]]) -> MemoryItem | None:
    """Reduce a message that states several facts to those that still hold; None if none does."""
    holding = dict.fromkeys(values[-1].text for values in stated if values[-1].source == source)
    return memory.model_copy(update={"text": "; ".join(holding)}) if holding else None


def _is_stated_in(fact: Fact, stream_memories: Mapping[str, MemoryItem]) -> bool:
    # A correction, "it's Eve, not Ada", does not name its attribute: the fact does.
    source = stream_memories.get(fact.source)
    return source is not None and fact.text in source.text


def is_of_another_user(memory: MemoryItem, user_id: str | None) -> bool:
    """Return whether a memory is by, or for, a user other than this one."""
    return memory.said_by is not None and memory.said_by != user_id
