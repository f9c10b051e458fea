"""Shadows: what a shadow would have said is kept beside what was said, to be compared.

    from petiole.tasks import shadows

    for each in shadows.compare("llm.answer_anew"):
        print(each.unsaid, each.said)

Nothing of it is published, and nobody hears it. `petiole shadows` shows the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from petiole.tasks.handling.current import CurrentDelivery, current_bus

if TYPE_CHECKING:
    from petiole.tasks.publishing.document import ValidatedEvent
    from petiole.tasks.runtime import BusRuntime


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """One event that a shadow handled: what it would have said, and what its agent said of it instead; as JSON.

    `later` is how many events it would have published for later; those are counted only.
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
    """Keep what a shadow would say, and let none of it out. Raises redis-py's errors where the store is away."""
    outbox, event, stores = context.outbox, context.event, context.bus.stores
    unsaid = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "stream_id": event.stream_id,
        "correlation_id": event.correlation_id,
        "at": datetime.now(UTC).isoformat(),
        "unsaid": [_to_document(each) for each in outbox.events],
        "later": len(outbox.delayed),
    }
    outbox.suppress()
    if outbox.suppressed_count:
        stores.counters.add("shadow_events_suppressed", outbox.suppressed_count)
    stores.shadows.keep(context.subscription.name, unsaid)


def compare(subscription: str, *, limit: int = 50, bus: BusRuntime | None = None) -> Iterator[ShadowComparison]:
    """Hold what a shadow would have said against what its agent said of the same event, the newest first.

    What the history has forgotten is not there.
    """
    stores, agent = current_bus(bus).stores, subscription.partition(".")[0]
    for kept in stores.shadows.newest(subscription, limit):
        flow = stores.history.read_flow(kept["correlation_id"])
        said = tuple(each.document_or_stub for each in flow if _is_caused_by(each.attributes, kept["event_id"], agent))
        at = datetime.fromisoformat(kept["at"])
        yield ShadowComparison(subscription, agent_events=said, **{**kept, "at": at, "unsaid": tuple(kept["unsaid"])})


def _is_caused_by(attributes: Mapping[str, Any], event_id: str, agent: str) -> bool:
    path = attributes.get("path") or [""]
    return attributes.get("causation_id") == event_id and path[-1] == agent


def _to_document(validated: ValidatedEvent) -> dict[str, object]:
    if validated.blob is None:
        return validated.document
    return {name: value for name, value in validated.document.items() if name != "content"}
