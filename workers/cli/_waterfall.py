"""Render flows with their deliveries as a waterfall: one line per event, delivery and failed attempt, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from rich.text import Text

from petiole.tasks.operations.delivery_trace import TracedDelivery
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.observability.flow_tree import TreeRow, build_tree_rows, publisher_name, shorten, summarize_content
from petiole.workers.observability.printable import replace_unprintable

Deliveries = Mapping[str, Sequence[TracedDelivery]]

_BAR_WIDTH = 16
_LABEL_WIDTH = 50
_STYLES = {"dead_lettered": "red", "retrying": "yellow", "deferred": "yellow", "parked": "yellow", "handled": "green"}


def waterfall_as_json(flow: Sequence[RecordedEvent], deliveries: Deliveries) -> list[dict[str, object]]:
    """Describe each event of a flow with its deliveries, in the order of the tree by causation."""
    return [
        {
            "depth": row.depth,
            "offset_ms": row.offset_ms,
            "publisher": publisher_name(row.recorded.document_or_stub),
            "event": row.recorded.document_or_stub,
            "deliveries": [_delivery_as_json(each) for each in _deliveries_of(row, deliveries)],
        }
        for row in build_tree_rows(flow)
    ]


def render_waterfall(flow: Sequence[RecordedEvent], deliveries: Deliveries) -> Iterator[Text]:
    """Render a flow line by line. The bars span the time of the flow."""
    rows = build_tree_rows(flow)
    began_ms = min(row.recorded.recorded_at_ms for row in rows)
    ends = [each.ended_at_ms for row in rows for each in _deliveries_of(row, deliveries) if each.ended_at_ms]
    span_ms = max([1, *(end - began_ms for end in ends), *(row.offset_ms for row in rows)])
    for row in rows:
        yield _event_line(row, span_ms)
        for delivery in _deliveries_of(row, deliveries):
            yield _delivery_line(row, delivery, began_ms, span_ms)
            yield from _attempt_lines(row, delivery, began_ms, span_ms)


def _deliveries_of(row: TreeRow, deliveries: Deliveries) -> Sequence[TracedDelivery]:
    return deliveries.get(str(row.recorded.attributes["event_id"]), ())


def _delivery_as_json(delivery: TracedDelivery) -> dict[str, object]:
    return asdict(delivery) | {"attempts": [attempt.model_dump(mode="json") for attempt in delivery.attempts]}


def _event_line(row: TreeRow, span_ms: int) -> Text:
    document = row.recorded.document_or_stub
    label = f"{'  ' * row.depth}{row.recorded.topic}  ({publisher_name(document)})"
    return _line(
        label, row.offset_ms, _bar(row.offset_ms, row.offset_ms, span_ms), _cost(document), "bold", is_event=True
    )


def _delivery_line(row: TreeRow, delivery: TracedDelivery, began_ms: int, span_ms: int) -> Text:
    end_ms = row.offset_ms if delivery.ended_at_ms is None else delivery.ended_at_ms - began_ms
    label = f"{'  ' * row.depth}  -> {delivery.subscription}"
    bar = _bar(row.offset_ms, end_ms, span_ms)
    outcome = _outcome(delivery, row.recorded.recorded_at_ms, began_ms)
    return _line(label, None, bar, outcome, _STYLES.get(delivery.state, ""))


def _outcome(delivery: TracedDelivery, recorded_at_ms: int, began_ms: int) -> str:
    parts = [delivery.state.replace("_", " ")]
    if delivery.ended_at_ms is not None:
        parts.append(f"after {delivery.ended_at_ms - recorded_at_ms:,} ms")
    if delivery.due_ms is not None:
        parts.append(f"due at {_offset(delivery.due_ms - began_ms)}")
    if delivery.events:
        parts.append(f"events {delivery.events}")
    if delivery.crashes:
        parts.append(f"crashed {delivery.crashes} workers")
    if delivery.letter:
        parts.append(f"({delivery.letter})")
    text = " ".join(parts)
    return f"{text}: {_one_line(delivery.error)}" if delivery.error else text


def _attempt_lines(row: TreeRow, delivery: TracedDelivery, began_ms: int, span_ms: int) -> Iterator[Text]:
    before_ms = row.offset_ms
    for number, attempt in enumerate(delivery.attempts, 1):
        at_ms = int(attempt.at.timestamp() * 1_000) - began_ms
        error = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker process died"
        label = f"{'  ' * row.depth}     attempt {number}  {attempt.worker}"
        described = f"failed after a wait of {max(0, at_ms - before_ms):,} ms: {_one_line(error)}"
        yield _line(label, at_ms, _bar(at_ms, at_ms, span_ms), described, "red")
        before_ms = at_ms


def _line(label: str, offset_ms: int | None, bar: str, described: str, style: str, *, is_event: bool = False) -> Text:
    drawn = Text()
    drawn.append(
        f"{shorten(replace_unprintable(label), _LABEL_WIDTH):<{_LABEL_WIDTH}}", style=style if is_event else ""
    )
    drawn.append(f"{'' if offset_ms is None else _offset(offset_ms):>12}  ", style="dim")
    drawn.append(f"{bar}  ", style="cyan")
    drawn.append(described, style="" if is_event else style)
    return drawn


def _bar(start_ms: int, end_ms: int, span_ms: int) -> str:
    last = _BAR_WIDTH - 1
    first, end = (min(last, max(0, round(at_ms / span_ms * last))) for at_ms in (start_ms, end_ms))
    return ("." * first + "#" * (end - first + 1)).ljust(_BAR_WIDTH, ".")


def _offset(offset_ms: int) -> str:
    return f"+{offset_ms:,} ms"


def _cost(document: Mapping[str, object]) -> str:
    """Describe what an event cost: the model's tokens, else its content."""
    content = document.get("content")
    usage = content.get("usage") if isinstance(content, Mapping) else None
    if isinstance(content, Mapping) and isinstance(usage, Mapping):
        return f"{content.get('model')}: {usage.get('input_tokens', 0)} + {usage.get('output_tokens', 0)} tokens"
    return summarize_content(document)


def _one_line(text: str) -> str:
    return replace_unprintable(" ".join(text.split()))
