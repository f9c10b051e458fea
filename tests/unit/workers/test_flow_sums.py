"""What `petiole trace` tells of the cost of a flow and of its approvals."""

from __future__ import annotations

from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.cli._flow_sums import (
    approval_as_json,
    decision_times,
    describe_approval,
    describe_event_cost,
    summarize_flow,
)


def recorded(at_ms: int, topic: str, **content: object) -> RecordedEvent:
    return RecordedEvent(f"{at_ms}-0", {"event_id": str(at_ms), "event_type": topic, "content": content})


def usage(at_ms: int, cost: float | None) -> RecordedEvent:
    facts = {"model": "m-1", "input_tokens": 1_200, "output_tokens": 300, "cost": cost}
    return recorded(at_ms, "llm.usage.recorded", **facts)


def test_a_flow_is_summed_up_with_the_tokens_and_the_cost_of_all_its_calls():
    flow = [usage(1, 0.0125), recorded(2, "llm.response.generated", model="m-1"), usage(3, None)]

    assert summarize_flow(flow, {}) == "total: 3 events, 0 deliveries; 2,400 + 600 tokens, $0.012500"


def test_an_event_of_a_model_is_described_by_its_tokens_and_any_other_by_its_content():
    generated = {"event_type": "llm.response.generated", "content": {"model": "m\x1b", "usage": {"input_tokens": 7}}}

    assert describe_event_cost(usage(1, 0.5).attributes) == "m-1: 1,200 + 300 tokens, $0.500000"
    assert describe_event_cost(generated) == "m : 7 + 0 tokens"
    assert describe_event_cost({"event_type": "a.b", "content": {"text": "Hello"}}) == "Hello"
    assert (
        describe_event_cost({"event_type": "llm.usage.recorded", "content": {"cost": "much"}}) == "None: 0 + 0 tokens"
    )


def test_an_approval_is_waited_for_until_its_first_decision():
    asked = recorded(1_000, "tools.approval.requested", approval_id="a", tool="pay")
    open_one = recorded(1_500, "tools.approval.requested", approval_id="b", tool="send")
    granted = recorded(4_200, "tools.approval.granted", approval_id="a", tool="pay")
    expired = recorded(9_000, "tools.approval.expired", approval_id="a", tool="pay")
    decided = decision_times([asked, open_one, granted, expired])

    assert describe_approval(asked, decided) == "pay waited for approval: 3,200 ms"
    assert approval_as_json(asked, decided) == {"from_ms": 1_000, "until_ms": 4_200}
    assert describe_approval(open_one, decided) == "send waits for approval"
    assert describe_approval(granted, decided) == ""
