"""What the events of a flow cost and what it waited for: tokens, prices, approvals, waits by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from petiole.tasks.operations.delivery_trace import Phase, TracedDelivery, list_phases
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.observability.flow_tree import summarize_content
from petiole.workers.observability.printable import replace_unprintable

_APPROVAL_REQUESTED = "tools.approval.requested"
_DECISIONS = {"tools.approval.granted", "tools.approval.denied", "tools.approval.expired"}
_USAGE_RECORDED = "llm.usage.recorded"


def summarize_flow(flow: Sequence[RecordedEvent], deliveries: Mapping[str, Sequence[TracedDelivery]]) -> str:
    """Sum up a flow: events, deliveries, failed attempts, waits by reason, tokens and cost."""
    recorded_at_ms = {str(each.attributes["event_id"]): each.recorded_at_ms for each in flow}
    rows = [(each, recorded_at_ms[event_id]) for event_id, found in deliveries.items() for each in found]
    parts = [f"{len(flow)} events, {len(rows)} deliveries"]
    if failed := sum(len(each.attempts) for each, _ in rows):
        parts.append(f"{failed} failed attempts")
    if waited := describe_waits(phase for each, at_ms in rows for phase in list_phases(each, at_ms)):
        parts.append(f"waited: {waited}")
    usages = [usage for each in flow if (usage := _recorded_usage(each))]
    if usages:
        inputs, outputs, costs = zip(*usages, strict=True)
        parts.append(_describe_tokens(sum(inputs), sum(outputs), sum(costs)))
    return "total: " + "; ".join(parts)


def describe_waits(phases: Iterable[Phase]) -> str:
    """Sum up by reason how long deliveries waited, as far as it is known."""
    sums: Counter[str] = Counter()
    for phase in phases:
        if phase.kind != "handler" and phase.until_ms is not None:
            sums[phase.kind] += phase.until_ms - phase.from_ms
    return ", ".join(f"{kind} {waited_ms:,} ms" for kind, waited_ms in sums.items())


def describe_event_cost(document: Mapping[str, object]) -> str:
    """Describe what an event says: a model's tokens and their price, else its content."""
    content = document.get("content")
    if not isinstance(content, Mapping):
        return ""
    usage = content if document.get("event_type") == _USAGE_RECORDED else content.get("usage")
    if not isinstance(usage, Mapping):
        return summarize_content(document)
    model = replace_unprintable(str(content.get("model")))
    return f"{model}: {_describe_tokens(*_usage_amounts(usage))}"


def decision_times(flow: Sequence[RecordedEvent]) -> dict[str, int]:
    """Return when each approval was first decided or expired, in ms since 1970."""
    decisions = (each for each in reversed(flow) if each.topic in _DECISIONS)
    return {str(_content(each).get("approval_id")): each.recorded_at_ms for each in decisions}


def approval_as_json(recorded: RecordedEvent, decided: Mapping[str, int]) -> dict[str, object] | None:
    """Return from when to when an approval was waited for; None for other events."""
    if recorded.topic != _APPROVAL_REQUESTED:
        return None
    until_ms = decided.get(str(_content(recorded).get("approval_id")))
    return {"from_ms": recorded.recorded_at_ms, "until_ms": until_ms}


def describe_approval(recorded: RecordedEvent, decided: Mapping[str, int]) -> str:
    """Describe how long an approval was waited for; empty for other events."""
    if recorded.topic != _APPROVAL_REQUESTED:
        return ""
    content = _content(recorded)
    until_ms, tool = decided.get(str(content.get("approval_id"))), replace_unprintable(str(content.get("tool")))
    if until_ms is None:
        return f"{tool} waits for approval"
    return f"{tool} waited for approval: {until_ms - recorded.recorded_at_ms:,} ms"


def _recorded_usage(recorded: RecordedEvent) -> tuple[int, int, float] | None:
    return _usage_amounts(_content(recorded)) if recorded.topic == _USAGE_RECORDED else None


def _usage_amounts(usage: Mapping[str, object]) -> tuple[int, int, float]:
    """Return input tokens, output tokens and cost."""
    values = (usage.get(name) for name in ("input_tokens", "output_tokens", "cost"))
    inputs, outputs, cost = (value if isinstance(value, int | float) else 0 for value in values)
    return int(inputs), int(outputs), float(cost)


def _describe_tokens(inputs: int, outputs: int, cost: float) -> str:
    price = f", ${cost:.6f}" if cost else ""
    return f"{inputs:,} + {outputs:,} tokens{price}"


def _content(recorded: RecordedEvent) -> Mapping[str, object]:
    content = recorded.document_or_stub.get("content")
    return content if isinstance(content, Mapping) else {}
