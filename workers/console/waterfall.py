"""Waterfall: the rows of a flow's events and their deliveries, each with its phases as bars over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from petiole.tasks.operations.delivery_trace import Phase, TracedDelivery, list_phases, trace_deliveries
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.observability.flow_tree import TreeRow, publisher_name

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

MAX_TRACED: Final = 2_000
"""Flows with more events, or with long ones, are traced page by page: what the handlers of one page published on
another is not counted."""

BAR_WIDTH: Final = 240
_MAX_DEPTH = 12

_WAITS: Mapping[str, str] = {
    "queued": "waits in its queue",
    "leased": "is being handled",
    "retrying": "waits for its next attempt",
    "deferred": "was put off: a breaker, a budget, or later by its handler's wish",
    "grouped": "waits for earlier deliveries of its message group",
    "parked": "waits for a worker that has its handler or event type",
}
_REASONS: Mapping[str, str] = {
    "queue": "a worker",
    "retry": "another attempt",
    "breaker": "the breaker",
    "budget": "the budget",
    "deferred": "the time its handler named",
}
_DECISIONS = {"tools.approval.granted", "tools.approval.denied", "tools.approval.expired"}


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a bar begins in the waterfall, how wide it is, and what it stands for: an event, a handler, or a wait."""

    x: int
    width: int
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery below its event: what came of it, or why it waits."""

    delivery: TracedDelivery
    wait: str
    waited: str
    took_ms: int | None
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event with its deliveries. `content` is None while contents are hidden."""

    recorded: RecordedEvent
    offset_ms: int
    depth: int
    publisher: str
    usage: str
    approval: str
    bars: Sequence[Bar]
    deliveries: Sequence[DeliveryRow]
    content: object = None


def build_waterfall(
    bus: BusRuntime, flow: Sequence[RecordedEvent], part: Sequence[TreeRow], *, shows_contents: bool
) -> Iterator[EventRow]:
    """Build the rows of a part of a flow."""
    is_small = len(flow) <= MAX_TRACED and not any(each.reload for each in flow)
    traced = flow if is_small else [row.recorded for row in part]
    deliveries = trace_deliveries(bus, traced)
    scale = _make_scale(flow, deliveries)
    for row in part:
        recorded = row.recorded
        approval, bars = _approval(recorded, flow, scale)
        yield EventRow(
            recorded,
            row.offset_ms,
            min(row.depth, _MAX_DEPTH),
            publisher_name(recorded.attributes),
            _usage(recorded),
            approval,
            bars,
            [
                _delivery_row(each, recorded.recorded_at_ms, scale)
                for each in deliveries.get(str(recorded.attributes["event_id"]), ())
            ],
            dict(recorded.document_or_stub).get("content", "its content is missing") if shows_contents else None,
        )


@dataclass(frozen=True, slots=True)
class _Scale:
    """The time that the width of the waterfall stands for."""

    began_ms: int
    ended_ms: int

    def bar(self, from_ms: int, until_ms: int | None, kind: str, title: str = "") -> Bar:
        span_ms, ended_ms = max(1, self.ended_ms - self.began_ms), self.ended_ms if until_ms is None else until_ms
        first, last = (
            min(BAR_WIDTH - 3, max(0, round((at_ms - self.began_ms) / span_ms * (BAR_WIDTH - 3))))
            for at_ms in (from_ms, ended_ms)
        )
        return Bar(first, max(3, last - first), kind, title)


def _make_scale(flow: Sequence[RecordedEvent], deliveries: Mapping[str, Sequence[TracedDelivery]]) -> _Scale:
    recorded_ms = {str(each.attributes["event_id"]): each.recorded_at_ms for each in flow}
    ends = [
        end_ms
        for event_id, found in deliveries.items()
        for each in found
        for end_ms in (each.ended_at_ms, *(phase.until_ms for phase in list_phases(each, recorded_ms[event_id])))
        if end_ms is not None
    ]
    return _Scale(min(recorded_ms.values()), max([*recorded_ms.values(), *ends]))


def _delivery_row(delivery: TracedDelivery, recorded_ms: int, scale: _Scale) -> DeliveryRow:
    phases, ended_ms = list(list_phases(delivery, recorded_ms)), delivery.ended_at_ms
    took_ms = None if ended_ms is None else max(0, ended_ms - recorded_ms)
    following = [*(each.kind for each in phases[1:]), ""]  # one more than phases, if there are none
    bars = [
        scale.bar(each.from_ms, each.until_ms, *_describe_phase(each, failed=kind == "retry"))
        for each, kind in zip(phases, following, strict=False)
    ]
    if not bars and ended_ms is not None:
        bars = [scale.bar(recorded_ms, ended_ms, "handler", "handled")]
    waits = Counter[str]()
    for phase in phases:
        if phase.kind != "handler" and phase.until_ms is not None:
            waits[_REASONS.get(phase.kind, phase.kind)] += phase.until_ms - phase.from_ms
    waited = ", ".join(f"{reason} {waited_ms:,} ms" for reason, waited_ms in waits.items() if waited_ms)
    return DeliveryRow(delivery, _WAITS.get(delivery.state, ""), waited, took_ms, bars)


def _describe_phase(phase: Phase, *, failed: bool) -> tuple[str, str]:
    """Return the kind of a phase's bar, and its title. `failed`: the phase is an attempt that another one follows."""
    took = "goes on" if phase.until_ms is None else f"{phase.until_ms - phase.from_ms:,} ms"
    if phase.kind == "handler":
        return ("failed" if failed else "handler"), f"handler: {took}"
    kind = "queue" if phase.kind == "queue" else "wait"
    return kind, f"waited for {_REASONS.get(phase.kind, phase.kind)} {phase.subject}: {took}".replace(" :", ":")


def _approval(recorded: RecordedEvent, flow: Sequence[RecordedEvent], scale: _Scale) -> tuple[str, list[Bar]]:
    """Describe how long an approval was waited for, and return the bars of an event."""
    if recorded.topic != "tools.approval.requested":
        return "", [scale.bar(recorded.recorded_at_ms, recorded.recorded_at_ms, "event")]
    wanted = read_content(recorded).get("approval_id")
    decisions = (each for each in flow if each.topic in _DECISIONS and read_content(each).get("approval_id") == wanted)
    decided = next(decisions, None)
    if decided is None:
        return "waits for an approval", [scale.bar(recorded.recorded_at_ms, None, "wait", "waits for an approval")]
    waited = f"waited for an approval: {decided.recorded_at_ms - recorded.recorded_at_ms:,} ms"
    return waited, [scale.bar(recorded.recorded_at_ms, decided.recorded_at_ms, "wait", waited)]


def read_content(recorded: RecordedEvent) -> Mapping[str, Any]:
    """Return an event's content; empty if it is missing."""
    content = recorded.document_or_stub.get("content")
    return content if isinstance(content, Mapping) else {}


def _usage(recorded: RecordedEvent) -> str:
    """Describe the tokens and the money of one call to a model."""
    if recorded.topic != "llm.usage.recorded":
        return ""
    content = read_content(recorded)
    cost = content.get("cost")
    money = "" if cost is None else f", {cost:g} {content.get('currency') or ''}".rstrip()
    return f"{content.get('input_tokens', 0)} + {content.get('output_tokens', 0)} tokens{money}"
