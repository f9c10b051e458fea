"""Shadow traffic: a shadow handler's events are captured for comparison and never published.

    from petiole.tasks import shadow_traffic

    for comparison in shadow_traffic.compare("llm.answer_anew"):
        print(comparison.shadow_events, comparison.agent_events)

`petiole shadows` prints the same comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from petiole.events import clock
from petiole.events.arguments import checks_arguments
from petiole.events.content import Text
from petiole.tasks.handling.current import CurrentDelivery, current_bus

if TYPE_CHECKING:
    from petiole.tasks.publishing.document import ValidatedEvent
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores import Stores


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """One event that a shadow handled: the events of the shadow, and those of its agent, as JSON.

    `delayed_count` is the number of delayed events of the shadow, which are counted only.
    """

    subscription: str
    event_id: str
    event_type: str
    stream_id: str
    correlation_id: str
    at: datetime
    shadow_events: tuple[Mapping[str, Any], ...]
    agent_events: tuple[Mapping[str, Any], ...]
    delayed_count: int = 0


def capture_output(context: CurrentDelivery) -> None:
    """Store a shadow's events, and remove them from its outbox. Raises RedisError."""
    outbox, event, stores = context.outbox, context.event, context.bus.stores
    output = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "stream_id": event.stream_id,
        "correlation_id": event.correlation_id,
        "at": clock.now().isoformat(),
        "shadow_events": [_to_document(validated) for validated in outbox.events],
        "delayed_count": len(outbox.delayed),
    }
    outbox.suppress()
    if outbox.suppressed_count:
        stores.counters.add("shadow_events_suppressed", outbox.suppressed_count)
    stores.shadows.keep(context.subscription.name, output)


@checks_arguments(subscription=Text, limit=Annotated[int, Field(ge=1, le=10_000)])
def compare(subscription: str, *, limit: int = 50, bus: BusRuntime | None = None) -> Iterator[ShadowComparison]:
    """Compare a shadow's events with those of its agent for the same event, newest first.

    Events of the agent that are no longer in the history are missing.
    """
    bus, agent = current_bus(bus), subscription.partition(".")[0]
    with bus.state_store_access(f"reading the events of {subscription}"):
        yield from _compare(bus.stores, subscription, limit, agent)


def _compare(stores: Stores, subscription: str, limit: int, agent: str) -> Iterator[ShadowComparison]:
    for output in stores.shadows.newest(subscription, limit):
        flow = stores.history.read_flow(output["correlation_id"])
        agent_events = tuple(
            event.document_or_stub for event in flow if _is_caused_by(event.attributes, output["event_id"], agent)
        )
        parsed = {"at": datetime.fromisoformat(output["at"]), "shadow_events": tuple(output["shadow_events"])}
        yield ShadowComparison(subscription, agent_events=agent_events, **{**output, **parsed})


def _is_caused_by(attributes: Mapping[str, Any], event_id: str, agent: str) -> bool:
    path = attributes.get("path") or [""]
    return attributes.get("causation_id") == event_id and path[-1] == agent


def _to_document(validated: ValidatedEvent) -> dict[str, object]:
    if validated.blob is None:
        return validated.document
    return {name: value for name, value in validated.document.items() if name != "content"}
