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
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.validation import checked

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_AT_ONCE = 100

AGENT_STEPS = "agent."


def tell(bus: BusRuntime) -> int:
    """Publish what happened and was not told yet; returns how much that was. Safe to repeat.

    Does not wait where a queue is full. Raises: QueueFull, BrokerUnavailable; what was not told stays so.
    """
    untold = bus.stores.lifecycle.untold(_AT_ONCE)
    if untold:
        events = [checked(bus, event) for event in _events(bus, untold)]
        dispatch(bus, events, patience=timedelta(0))
        bus.stores.lifecycle.told(untold)
    return len(untold)


def life_event_id(life: str, agent: str, step: str) -> str:
    """Name the event of a step; the same three always give the same id."""
    return str(uuid5(NAMESPACE_URL, repr(("life", life, agent, step))))


def _events(bus: BusRuntime, untold: Sequence[str]) -> Iterator[Event]:
    for text in untold:
        fact = json.loads(text)
        agent = fact.get("agent", "")
        yield bus.event_registry.parse(
            {
                "event_id": life_event_id(fact["life"], agent, fact["step"]),
                "event_type": fact["step"],
                "timestamp": _moment(fact["at"]),
                # A life's steps are one flow.
                "correlation_id": f"life of {agent or 'the system'} since {_moment(fact['life'])}",
                "content": _content(fact),
            }
        )


def _content(fact: dict[str, str]) -> dict[str, Any]:
    if not fact["step"].startswith(AGENT_STEPS):
        return {"last_event_time": _moment(fact["before"])} if "before" in fact else {}
    said = {"agent": fact["agent"], "worker": fact["worker"]}
    return said | {"reason": fact["reason"]} if "reason" in fact else said


def _moment(seconds: str) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat()
