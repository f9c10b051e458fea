"""What is remembered that a message may draw on: what was said in its stream, and facts its user stated elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petiole.events.catalog.memory import Fact, Recollection
from petiole.events.event import Event
from petiole.workers.retrieval.earlier import said_earlier


def owner_of(event: Event) -> str:
    """Name whose facts an event tells: its user's, in all streams, or those of its stream where it names nobody."""
    return f"user:{event.context.user_id}" if event.context.user_id else f"stream:{event.stream_id}"


def remembered(
    of_stream: Mapping[str, Recollection], facts: Sequence[Sequence[Fact]], flow: Sequence[Event], stream_id: str
) -> list[Recollection]:
    """List what may bear on a message of that stream: of each fact only the value that holds, and oldest first.

    `of_stream` are the stream's recollections by the ids of their events, `facts` the values of each, oldest first.
    """
    hold = {values[-1].source for values in facts}
    outdated = {each.source for values in facts for each in values[:-1]} - hold
    said_here = said_earlier((each for key, each in of_stream.items() if key not in outdated), flow)
    told_elsewhere = {values[-1].text: values[-1] for values in facts if values[-1].stream_id != stream_id}
    return [*(_recalled(fact) for fact in told_elsewhere.values()), *said_here]


def _recalled(fact: Fact) -> Recollection:
    if fact.subject == "user":
        return Recollection(role="user", text=fact.text, said_at=fact.said_at)
    # A finding may be out of date, and another conversation does not show when it was found.
    return Recollection(role="tool", text=f"on {fact.said_at:%Y-%m-%d}, {fact.text}", said_at=fact.said_at)
