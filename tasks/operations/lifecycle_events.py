"""Lifecycle events: every start, stop and crash of the system and its agents is published exactly once, in order.

    stores/cluster_membership.py            decides about transitions, over all workers, and stores them as unpublished
    publish_lifecycle_events(bus, cluster)  publishes them, the oldest first, and deletes what it published

Any process may publish. Event ids are derived from lifecycle and transition, so two processes publish an event once. If
a process crashes between publishing and deleting, the next one repeats it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from petiole.events.event import Event
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.cluster_lifecycle import Cluster, Transition

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_BATCH_SIZE = 100


def publish_lifecycle_events(bus: BusRuntime, cluster: Cluster) -> None:
    """Publish the unpublished transitions of a cluster that was read. Safe to repeat.

    Does not wait for full queues. Raises: QueueFull, BrokerUnavailable; the transitions stay unpublished then.
    """
    transitions = cluster.unpublished[:_BATCH_SIZE]
    if transitions:
        events = [validate(bus, _build_event(bus, transition)) for transition in transitions]
        commit(bus, events, capacity_timeout=timedelta(0))
        bus.stores.cluster_membership.mark_published(transitions)


def lifecycle_event_id(lifecycle_id: str, agent: str, event_type: str) -> str:
    """Derive the event id of a transition."""
    return str(uuid5(NAMESPACE_URL, repr(("lifecycle", lifecycle_id, agent, event_type))))


def _build_event(bus: BusRuntime, transition: Transition) -> Event:
    lifecycle_id, agent = transition.lifecycle_id, transition.agent
    return bus.event_registry.parse(
        {
            "event_id": lifecycle_event_id(lifecycle_id, agent, transition.event_type),
            "event_type": transition.event_type,
            "timestamp": _format_time(transition.at),
            # All events of a lifecycle are one flow.
            "correlation_id": f"{agent or 'system'} lifecycle {_format_time(lifecycle_id)}",
            "content": _content(transition),
        }
    )


def _content(transition: Transition) -> dict[str, Any]:
    if not transition.agent:
        return {"last_event_time": _format_time(transition.previous_at)} if transition.previous_at else {}
    content = {"agent": transition.agent, "worker": transition.worker}
    return content | {"reason": transition.reason} if transition.reason else content


def _format_time(seconds: str) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat()
