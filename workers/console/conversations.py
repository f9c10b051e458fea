"""Page Conversation: the waterfall of a flow, by the engine of `petiole trace`.

Contents are hidden. An operator may have them shown, and each time is published as `operator.action.recorded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from petiole.tasks.operations.delivery_trace import TracedDelivery, trace_deliveries
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.observability.flow_tree import TreeRow, build_tree_rows, group_by_flow, publisher_name

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

ROWS_PER_PAGE: Final = 200
MAX_FLOWS: Final = 50
MAX_TRACED: Final = 2_000
"""Flows with more events are traced page by page: what the handlers of one page published on another is not counted."""

BAR_WIDTH: Final = 200
_SEARCHED_EVENTS = 2_000
_MAX_DEPTH = 12

_WAITS: Mapping[str, str] = {
    "queued": "waits in its queue",
    "leased": "is being handled",
    "retrying": "waits for its next attempt",
    "deferred": "was put off: a breaker, a budget, or later by its handler's wish",
    "grouped": "waits for earlier deliveries of its message group",
    "parked": "waits for a worker that has its handler or event type",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a bar begins in the waterfall, and how wide it is."""

    x: int
    width: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery below its event: what came of it, or why it waits."""

    delivery: TracedDelivery
    wait: str
    took_ms: int | None
    bar: Bar


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event with its deliveries. `content` is None while contents are hidden."""

    recorded: RecordedEvent
    offset_ms: int
    depth: int
    publisher: str
    usage: str
    approval: str
    bar: Bar
    deliveries: Sequence[DeliveryRow]
    content: object = None


@dataclass(frozen=True, slots=True)
class FlowSummary:
    """A flow in a list: its first topic, its number of events, and when it began."""

    flow_id: str
    stream_id: str
    topic: str
    last_topic: str
    events: int
    began_ms: int


def list_conversations(visit: Visit) -> Response:
    """Show the flows of the last events, newest first; or go to the one that is asked for."""
    if wanted := visit.query("id"):
        return visit.go("/conversation", id=wanted)
    recent = visit.bus.stores.history.read_last(_SEARCHED_EVENTS)
    return visit.render("conversations.html", flows=list(_summarize(recent))[:MAX_FLOWS])


def show_conversation(visit: Visit) -> Response:
    """Show the waterfall without contents."""
    return _show(visit, visit.query("id"), shows_contents=False)


def reveal_conversation(visit: Visit) -> Response:
    """Show the waterfall with contents, and record who asked for them."""
    wanted = visit.query("id")
    visit.record("contents.shown", wanted)
    return _show(visit, wanted, shows_contents=True)


def _show(visit: Visit, wanted: str, *, shows_contents: bool) -> Response:
    history = visit.bus.stores.history
    flow, flows = history.read_flow(wanted), list[FlowSummary]()
    if not flow:
        events = history.read_stream(wanted)
        flows = list(_summarize(events))
        flow = history.read_flow(flows[0].flow_id) if flows else []
    if not flow:
        reason = f"No flow or stream {wanted!r} is recorded. Conversations lists the last ones."
        return visit.render("error.html", 404, title="Not found", reason=reason)
    rows = build_tree_rows(flow)
    number = visit.number("page", 0, 100_000)
    part = rows[number * ROWS_PER_PAGE : (number + 1) * ROWS_PER_PAGE]
    shown = list(_event_rows(visit, flow, part, shows_contents=shows_contents))
    return visit.render(
        "conversation.html",
        wanted=wanted,
        flow_id=str(flow[0].attributes["correlation_id"]),
        stream_id=str(flow[0].attributes["stream_id"]),
        flows=flows[:MAX_FLOWS],
        rows=shown,
        began_ms=min(each.recorded_at_ms for each in flow),
        total=len(rows),
        number=number,
        pages=-(-len(rows) // ROWS_PER_PAGE),
        cost=_total_cost(flow),
        shows_contents=shows_contents,
    )


def _summarize(recorded: Sequence[RecordedEvent]) -> Iterator[FlowSummary]:
    """Summarize flows, newest first."""
    for flow_id, flow in reversed(group_by_flow(recorded).items()):
        first = flow[0]
        stream_id = str(first.attributes["stream_id"])
        yield FlowSummary(flow_id, stream_id, first.topic, flow[-1].topic, len(flow), first.recorded_at_ms)


def _event_rows(
    visit: Visit, flow: Sequence[RecordedEvent], part: Sequence[TreeRow], *, shows_contents: bool
) -> Iterator[EventRow]:
    traced = flow if len(flow) <= MAX_TRACED else [row.recorded for row in part]
    deliveries = trace_deliveries(visit.bus, traced)
    began_ms = min(each.recorded_at_ms for each in flow)
    span_ms = max(1, max(each.recorded_at_ms for each in flow) - began_ms)
    for row in part:
        recorded = row.recorded
        yield EventRow(
            recorded,
            row.offset_ms,
            min(row.depth, _MAX_DEPTH),
            publisher_name(recorded.attributes),
            _usage(recorded),
            _approval_id(recorded),
            _bar(row.offset_ms, row.offset_ms, span_ms),
            [
                _delivery_row(each, row, began_ms, span_ms)
                for each in deliveries.get(str(recorded.attributes["event_id"]), ())
            ],
            dict(recorded.document_or_stub).get("content", "its content is missing") if shows_contents else None,
        )


def _delivery_row(delivery: TracedDelivery, row: TreeRow, began_ms: int, span_ms: int) -> DeliveryRow:
    recorded_ms, ended_ms = row.recorded.recorded_at_ms, delivery.ended_at_ms
    took_ms = None if ended_ms is None else max(0, ended_ms - recorded_ms)
    bar = _bar(row.offset_ms, row.offset_ms if ended_ms is None else ended_ms - began_ms, span_ms)
    return DeliveryRow(delivery, _WAITS.get(delivery.state, ""), took_ms, bar)


def _bar(start_ms: int, end_ms: int, span_ms: int) -> Bar:
    first, last = (min(BAR_WIDTH - 3, max(0, round(at / span_ms * (BAR_WIDTH - 3)))) for at in (start_ms, end_ms))
    return Bar(first, max(3, last - first))


def _content(recorded: RecordedEvent) -> Mapping[str, Any]:
    content = recorded.attributes.get("content")
    return content if isinstance(content, Mapping) else {}


def _usage(recorded: RecordedEvent) -> str:
    """Describe the tokens and the money of one call to a model."""
    if recorded.topic != "llm.usage.recorded":
        return ""
    content = _content(recorded)
    cost = content.get("cost")
    money = "" if cost is None else f", {cost:g} {content.get('currency') or ''}".rstrip()
    return f"{content.get('input_tokens', 0)} + {content.get('output_tokens', 0)} tokens{money}"


def _approval_id(recorded: RecordedEvent) -> str:
    return str(_content(recorded).get("approval_id", "")) if recorded.topic == "tools.approval.requested" else ""


def _total_cost(flow: Sequence[RecordedEvent]) -> str:
    calls = [_content(each) for each in flow if each.topic == "llm.usage.recorded"]
    if not calls:
        return ""
    tokens = sum(int(each.get("input_tokens") or 0) + int(each.get("output_tokens") or 0) for each in calls)
    money: dict[str, float] = {}
    for each in calls:
        if each.get("cost") is not None:
            money[str(each.get("currency") or "")] = money.get(str(each.get("currency") or ""), 0.0) + each["cost"]
    spent = "".join(f", {amount:g} {currency}".rstrip() for currency, amount in sorted(money.items()))
    return f"{len(calls)} calls to models, {tokens:,} tokens{spent}"
