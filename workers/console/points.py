"""Page From here: deliver a conversation again from one of its events, or let it go another way from there.

replay    a subscription gets the events from this one on again, by the engine of `petiole replay`
fork      a copy of this event is published in a stream of its own; whoever hears it acts there
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from starlette.responses import Response

from petiole.events.errors import UsageError
from petiole.events.event import Event
from petiole.events.topics import TopicTrie
from petiole.tasks.operations.history_replay import replay_history
from petiole.tasks.publication import publish_many
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.console.formats import format_json, parse_object
from petiole.workers.console.waterfall import read_content

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

MAX_REPLAYED: Final = 1_000

_OWN_FIELDS = ("event_type", "context", "priority", "schema_version")


@dataclass(frozen=True, slots=True)
class FlowPoint:
    """An event of a flow, and the events from it on."""

    event: RecordedEvent
    later: Sequence[RecordedEvent]

    @property
    def event_id(self) -> str:
        return str(self.event.attributes["event_id"])

    @property
    def flow_id(self) -> str:
        return str(self.event.attributes["correlation_id"])

    @property
    def since(self) -> datetime:
        """When the event was recorded; events of the same ms are later ones, too."""
        return datetime.fromtimestamp(self.event.recorded_at_ms / 1_000, UTC)


def show_point(visit: Visit) -> Response:
    """Show what can be done from an event on."""
    return _show(visit, _find(visit))


def reveal_point(visit: Visit) -> Response:
    """Show the content of the event, to change it in a fork, and record who asked for it."""
    point = _find(visit)
    visit.record("contents.shown", f"event {point.event_id}")
    return _show(visit, point, text=format_json(dict(read_content(point.event))))


def replay_from(visit: Visit) -> Response:
    """Deliver the events of the flow from this one on again to one subscription."""
    point, subscription = _find(visit), visit.form.get("subscription", "")
    if len(point.later) > MAX_REPLAYED:
        raise UsageError(f"{len(point.later):,} events follow; replay so many with `petiole replay`, which has a rate")
    with visit.acting("history.replayed", f"{point.flow_id} from {point.event_id} to {subscription}"):
        replay = replay_history(
            subscription,
            correlation=point.flow_id,
            since=point.since,
            replay_id=visit.form.get("replay_id") or None,
            bus=visit.bus,
        )
    return _show(visit, point, done=f"{replay.sent} deliveries were sent to {replay.subscription}.")


def fork_from(visit: Visit) -> Response:
    """Publish a copy of the event in a stream of its own, with another content if one is given."""
    point, text = _find(visit), visit.form.get("content")
    stream_id = f"fork-{uuid4().hex[:12]}"
    try:
        with visit.acting("event.forked", f"{point.event_id} to {stream_id}"):
            event = _copy(visit, point, stream_id, None if text is None else parse_object(text, "the content"))
            publish_many(visit.bus, [event])
    except UsageError as error:
        return _show(visit, point, text=text, refusal=str(error), status=400)
    return visit.go("/conversation", id=event.correlation_id)


def _copy(visit: Visit, point: FlowPoint, stream_id: str, content: dict[str, Any] | None) -> Event:
    document = point.event.document
    copied = {name: document[name] for name in _OWN_FIELDS if name in document}
    content = content if content is not None else dict(read_content(point.event))
    return visit.bus.event_registry.parse(copied | {"stream_id": stream_id, "content": content})


def _find(visit: Visit) -> FlowPoint:
    flow, event_id = visit.bus.stores.history.light.read_flow(visit.query("id")), visit.query("event")
    for index, recorded in enumerate(flow):
        if str(recorded.attributes["event_id"]) == event_id:
            return FlowPoint(recorded, flow[index:])
    raise UsageError(f"the flow has no event {event_id!r}; its page lists its events")


def _show(
    visit: Visit, point: FlowPoint, *, text: str | None = None, done: str = "", refusal: str = "", status: int = 200
) -> Response:
    return visit.render(
        "point.html",
        status,
        point=point,
        text=text,
        done=done,
        refusal=refusal,
        subscriptions=_count_by_subscription(visit, point.later),
        replay_id=uuid4().hex,
        is_too_long=len(point.later) > MAX_REPLAYED,
    )


def _count_by_subscription(visit: Visit, later: Sequence[RecordedEvent]) -> list[tuple[str, int]]:
    """Return the subscriptions whose patterns match events, with their number before filters."""
    topics = Counter(each.topic for each in later)
    counts = []
    for subscription in visit.bus.routing().all():
        trie: TopicTrie[str] = TopicTrie()
        for pattern in subscription.patterns:
            trie.add(pattern, pattern)
        if count := sum(number for topic, number in topics.items() if trie.match(topic)):
            counts.append((subscription.name, count))
    return counts
