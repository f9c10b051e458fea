"""Lives: what happens to the system and its agents is told as events, each step once and in order.

    stores/lifecycle.py   decides, in one step over all workers, which steps were taken, and keeps them as untold
    tell(bus)             publishes them, the oldest first, and forgets what was published

Any process may tell. Events have ids that follow from life and step, so two that tell the same publish it once; one
that dies between publishing and forgetting leaves it to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from petiole.events.event import Event
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_BATCH_SIZE = 100

AGENT_TOPIC_PREFIX = "agent."


def publish_lifecycle_events(bus: BusRuntime) -> int:
    """Publish what happened and was not told yet; returns how much that was. Safe to repeat.

    Does not wait where a queue is full. Raises: QueueFull, BrokerUnavailable; what was not told stays so.
    """
    untold = bus.stores.cluster_membership.read_unpublished(_BATCH_SIZE)
    if untold:
        events = [validate(bus, event) for event in _events(bus, untold)]
        commit(bus, events, capacity_timeout=timedelta(0))
        bus.stores.cluster_membership.mark_published(untold)
    return len(untold)


def lifecycle_event_id(lifecycle_id: str, agent: str, step: str) -> str:
    """Name the event of a step; the same three always give the same id."""
    return str(uuid5(NAMESPACE_URL, repr(("life", lifecycle_id, agent, step))))


def _events(bus: BusRuntime, transitions: Sequence[str]) -> Iterator[Event]:
    for text in transitions:
        fact = json.loads(text)
        agent = fact.get("agent", "")
        yield bus.event_registry.parse(
            {
                "event_id": lifecycle_event_id(fact["lifecycle_id"], agent, fact["event_type"]),
                "event_type": fact["event_type"],
                "timestamp": _format_time(fact["at"]),
                # A life's steps are one flow.
                "correlation_id": f"{agent or 'system'} lifecycle {_format_time(fact['lifecycle_id'])}",
                "content": _content(fact),
            }
        )


def _content(transition: dict[str, str]) -> dict[str, Any]:
    if not transition["event_type"].startswith(AGENT_TOPIC_PREFIX):
        return {"last_event_time": _format_time(transition["previous_at"])} if "previous_at" in transition else {}
    said = {"agent": transition["agent"], "worker": transition["worker"]}
    return said | {"reason": transition["reason"]} if "reason" in transition else said


def _format_time(seconds: str) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat()
