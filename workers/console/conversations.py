"""Page Conversation: the waterfall of a flow, by the engine of `petiole trace`.

Contents are hidden. An operator may have them shown, and each time is published as `operator.action.recorded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.console.waterfall import build_waterfall, read_content
from petiole.workers.observability.flow_tree import build_tree_rows, group_by_flow

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

ROWS_PER_PAGE: Final = 200
MAX_FLOWS: Final = 50
FOLLOWED_S: Final = 300.0
"""A flow whose last event is younger is read again every two seconds while somebody looks."""

_SEARCHED_EVENTS = 2_000


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
    recent = visit.bus.stores.history.light.read_last(_SEARCHED_EVENTS)
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
    history = visit.bus.stores.history.light
    flow, flows = history.read_flow(wanted), list[FlowSummary]()
    if not flow:
        events = history.read_stream(wanted)
        flows = list(_summarize(events))
        flow = history.read_flow(flows[0].flow_id) if flows else []
    if not flow:
        reason = f"No flow or stream {wanted!r} is recorded. Conversations lists the last ones."
        return visit.render("error.html", 404, title="Not found", reason=reason)
    rows = build_tree_rows(flow)
    last_s = visit.bus.now().timestamp() - flow[-1].recorded_at_ms / 1_000
    number = visit.number("page", 0, 100_000)
    part = rows[number * ROWS_PER_PAGE : (number + 1) * ROWS_PER_PAGE]
    stream_id = str(flow[0].attributes["stream_id"])
    if shows_contents:
        visit.console.answers.permit(visit.operator, stream_id)
    shown = list(build_waterfall(visit.bus, flow, part, shows_contents=shows_contents))
    return visit.render(
        "conversation.html",
        wanted=wanted,
        flow_id=str(flow[0].attributes["correlation_id"]),
        stream_id=stream_id,
        flows=flows[:MAX_FLOWS],
        rows=shown,
        began_ms=flow[0].recorded_at_ms,
        total=len(rows),
        is_followed=not shows_contents and len(rows) <= ROWS_PER_PAGE and last_s < FOLLOWED_S,
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


def _total_cost(flow: Sequence[RecordedEvent]) -> str:
    calls = [read_content(each) for each in flow if each.topic == "llm.usage.recorded"]
    if not calls:
        return ""
    tokens = sum(int(each.get("input_tokens") or 0) + int(each.get("output_tokens") or 0) for each in calls)
    money: dict[str, float] = {}
    for each in calls:
        if each.get("cost") is not None:
            money[str(each.get("currency") or "")] = money.get(str(each.get("currency") or ""), 0.0) + each["cost"]
    spent = "".join(f", {amount:g} {currency}".rstrip() for currency, amount in sorted(money.items()))
    return f"model calls: {len(calls)}, tokens: {tokens:,}{spent}"
