"""Render flows with their deliveries as a waterfall: one line per event, delivery and failed attempt, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from rich.text import Text

from petiole.tasks.operations.delivery_trace import Phase, TracedDelivery, list_phases
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.cli._flow_sums import (
    approval_as_json,
    decision_times,
    describe_approval,
    describe_event_cost,
    describe_waits,
    summarize_flow,
)
from petiole.workers.observability.flow_tree import TreeRow, build_tree_rows, publisher_name, shorten
from petiole.workers.observability.printable import replace_unprintable

Deliveries = Mapping[str, Sequence[TracedDelivery]]

_BAR_WIDTH = 16
_LABEL_WIDTH = 50
_STYLES = {"dead_lettered": "red", "retrying": "yellow", "deferred": "yellow", "parked": "yellow", "handled": "green"}


def waterfall_as_json(flow: Sequence[RecordedEvent], deliveries: Deliveries) -> list[dict[str, object]]:
    """Describe each event of a flow with its deliveries, in the order of the tree by causation."""
    decided = decision_times(flow)
    return [
        {
            "depth": row.depth,
            "offset_ms": row.offset_ms,
            "publisher": publisher_name(row.recorded.document_or_stub),
            "event": row.recorded.document_or_stub,
            "approval": approval_as_json(row.recorded, decided),
            "deliveries": [
                _delivery_as_json(each, row.recorded.recorded_at_ms) for each in _deliveries_of(row, deliveries)
            ],
        }
        for row in build_tree_rows(flow)
    ]


def render_waterfall(flow: Sequence[RecordedEvent], deliveries: Deliveries) -> Iterator[Text]:
    """Render a flow line by line, and its sums at the end. The bars span the time of the flow."""
    rows, decided = build_tree_rows(flow), decision_times(flow)
    began_ms = min(row.recorded.recorded_at_ms for row in rows)
    ends = [end for row in rows for each in _deliveries_of(row, deliveries) for end in _ends(each, row)]
    span_ms = max([1, *(end - began_ms for end in ends), *(row.offset_ms for row in rows)])
    for row in rows:
        yield _event_line(row, span_ms, decided)
        for delivery in _deliveries_of(row, deliveries):
            yield _delivery_line(row, delivery, began_ms, span_ms)
            yield from _attempt_lines(row, delivery, began_ms, span_ms)
    yield Text(summarize_flow(flow, deliveries), style="dim")


def _deliveries_of(row: TreeRow, deliveries: Deliveries) -> Sequence[TracedDelivery]:
    return deliveries.get(str(row.recorded.attributes["event_id"]), ())


def _ends(delivery: TracedDelivery, row: TreeRow) -> Iterator[int]:
    """Return the times at which the known phases of a delivery ended, and the delivery itself."""
    phases = list_phases(delivery, row.recorded.recorded_at_ms)
    yield from (end for end in (delivery.ended_at_ms, *(phase.until_ms for phase in phases)) if end is not None)


def _delivery_as_json(delivery: TracedDelivery, recorded_at_ms: int) -> dict[str, object]:
    return asdict(delivery) | {
        "attempts": [attempt.model_dump(mode="json") for attempt in delivery.attempts],
        "waits": [wait.model_dump(mode="json") for wait in delivery.waits],
        "phases": [asdict(phase) for phase in list_phases(delivery, recorded_at_ms)],
    }


def _event_line(row: TreeRow, span_ms: int, decided: Mapping[str, int]) -> Text:
    label = f"{'  ' * row.depth}{row.recorded.topic}  ({publisher_name(row.recorded.document_or_stub)})"
    described = describe_approval(row.recorded, decided) or describe_event_cost(row.recorded.document_or_stub)
    bar = _bar([(row.offset_ms, row.offset_ms, "#")], span_ms)
    return _line(label, row.offset_ms, bar, described, "bold", is_event=True)


def _delivery_line(row: TreeRow, delivery: TracedDelivery, began_ms: int, span_ms: int) -> Text:
    recorded_ms = row.recorded.recorded_at_ms
    phases = list(list_phases(delivery, recorded_ms))
    end_ms = recorded_ms if delivery.ended_at_ms is None else delivery.ended_at_ms
    spans = [
        (phase.from_ms - began_ms, phase.until_ms - began_ms, "#" if phase.kind == "handler" else "-")
        for phase in phases
        if phase.until_ms is not None
    ]
    bar = _bar(spans or [(row.offset_ms, end_ms - began_ms, "#")], span_ms)
    label = f"{'  ' * row.depth}  -> {delivery.subscription}"
    return _line(label, None, bar, _outcome(delivery, phases, row), _STYLES.get(delivery.state, ""))


def _outcome(delivery: TracedDelivery, phases: Sequence[Phase], row: TreeRow) -> str:
    recorded_at_ms = row.recorded.recorded_at_ms
    parts = [delivery.state.replace("_", " ")]
    if delivery.ended_at_ms is not None:
        parts.append(f"after {delivery.ended_at_ms - recorded_at_ms:,} ms")
    if waited := describe_waits(phases):
        parts.append(f"(waited: {waited})")
    if delivery.due_ms is not None:
        parts.append(f"due at {_offset(delivery.due_ms - recorded_at_ms + row.offset_ms)}")
    if delivery.events:
        parts.append(f"events {delivery.events}")
    if delivery.crashes:
        parts.append(f"crashed {delivery.crashes} workers")
    if delivery.letter:
        parts.append(f"({delivery.letter})")
    text = " ".join(parts)
    return f"{text}: {_one_line(delivery.error)}" if delivery.error else text


def _attempt_lines(row: TreeRow, delivery: TracedDelivery, began_ms: int, span_ms: int) -> Iterator[Text]:
    """Render failed attempts and the waits for another one, in the order of time."""
    indent = "  " * row.depth
    lines: list[tuple[int, Text]] = []
    for number, attempt in enumerate(delivery.attempts, 1):
        at_ms = int(attempt.at.timestamp() * 1_000) - began_ms
        error = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker process died"
        label, bar = f"{indent}     attempt {number}  {attempt.worker}", _bar([(at_ms, at_ms, "#")], span_ms)
        lines.append((at_ms, _line(label, at_ms, bar, f"failed: {_one_line(error)}", "red")))
    for wait in delivery.waits:
        at_ms, due_ms = wait.at_ms - began_ms, wait.due_ms - began_ms
        label, bar = f"{indent}     wait  {wait.reason} {wait.subject}", _bar([(at_ms, due_ms, "-")], span_ms)
        times = f" ({wait.times} times)" if wait.times > 1 else ""
        reason = times if wait.reason == "retry" else f"{times}: {_one_line(wait.error)}"
        lines.append((at_ms, _line(label, at_ms, bar, f"{due_ms - at_ms:,} ms{reason}", "yellow")))
    yield from (line for _, line in sorted(lines, key=lambda each: each[0]))


def _line(label: str, offset_ms: int | None, bar: str, described: str, style: str, *, is_event: bool = False) -> Text:
    drawn = Text()
    drawn.append(
        f"{shorten(replace_unprintable(label), _LABEL_WIDTH):<{_LABEL_WIDTH}}", style=style if is_event else ""
    )
    drawn.append(f"{'' if offset_ms is None else _offset(offset_ms):>12}  ", style="dim")
    drawn.append(f"{bar}  ", style="cyan")
    drawn.append(described, style="" if is_event else style)
    return drawn


def _bar(spans: Sequence[tuple[int, int, str]], span_ms: int) -> str:
    """Draw times within a span: each from a time to another, with its sign."""
    last, cells = _BAR_WIDTH - 1, ["."] * _BAR_WIDTH
    for start_ms, end_ms, sign in spans:
        first, end = (min(last, max(0, round(at_ms / span_ms * last))) for at_ms in (start_ms, end_ms))
        cells[first : end + 1] = sign * (end + 1 - first)
    return "".join(cells)


def _offset(offset_ms: int) -> str:
    return f"+{offset_ms:,} ms"


def _one_line(text: str) -> str:
    return replace_unprintable(" ".join(text.split()))
