"""What is said of a tool's call, and under which ids."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.tools import ToolExecution, ToolExecutionRequestedEvent, ToolFailedEvent, ToolResultEvent
from petiole.events.errors import OperationInProgress, RetryLater
from petiole.workers.agents.tools import execute, outcome_of
from petiole.workers.tools import ToolContext, installed_tools
from petiole.workers.tools.tool_calls import (
    PROGRESS_BURST,
    CallOutcome,
    ProgressLimiter,
    build_call_progress,
    build_call_requested,
    build_call_started,
    call_fingerprint,
    call_key,
)

MESSAGE = TextMessageEvent(stream_id="s-1", content=TextContent(text="What is 12 * 7?"))


def a_request(tool: str = "clock", call_id: str = "c-1", **arguments: Any) -> ToolExecutionRequestedEvent:
    call = ToolCall(call_id=call_id, tool=tool, arguments=arguments)
    return build_call_requested(MESSAGE.caused(ToolsRequestedEvent, content=ToolsRequest(calls=(call,))), call)


def run(tool: str, **arguments: Any) -> ToolResultEvent | ToolFailedEvent:
    event = a_request(tool, **arguments)
    context = ToolContext("s-1", lambda percent, note: None, lambda query, limit: [])
    act = partial(execute, event.content, installed_tools().get(tool), context)
    return CallOutcome.from_json(outcome_of(event.content, act)).build_event(event, event.content)


def test_a_call_ends_with_its_value_and_words() -> None:
    result = run("calculator", expression="12 * 7")

    assert isinstance(result, ToolResultEvent)
    assert result.content.value == 84
    assert result.content.data["text"] == "12 * 7 is 84"


@pytest.mark.parametrize(
    ("arguments", "error_type", "words"),
    [
        ({}, "invalid_arguments", "argument 'expression'"),
        ({"expression": "1 / 0"}, "ToolFailed", "divides by zero"),
    ],
)
def test_a_call_that_cannot_be_run_ends_with_a_failure(arguments: dict[str, Any], error_type: str, words: str) -> None:
    result = run("calculator", **arguments)

    assert isinstance(result, ToolFailedEvent)
    assert (result.content.call_id, result.content.error_type) == ("c-1", error_type)
    assert words in result.content.error
    assert not result.content.is_retryable


def test_all_said_of_a_call_has_the_same_ids_whoever_asks_for_it_again() -> None:
    ids = [
        [
            event.event_id,
            *(
                said.event_id
                for said in (
                    build_call_started(event, call),
                    *(build_call_progress(event, call, p, "") for p in (1, 2)),
                )
            ),
        ]
        for event in (a_request(), a_request())
        for call in (event.content,)
    ]

    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 4


def test_another_call_id_argument_or_flow_is_another_call() -> None:
    event = a_request(zone="UTC")
    other_flow = event.model_copy(update={"correlation_id": "another"})
    others = [
        a_request(zone="UTC", call_id="c-2"),
        a_request(zone="Tokyo"),
        a_request("primes", zone="UTC"),
        other_flow,
    ]

    names = {call_key(each, each.content) for each in (event, *others)}

    assert len(names) == 5


def test_the_fingerprint_is_of_tool_and_arguments_in_whatever_order_they_stand() -> None:
    one, other = ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1})

    assert call_fingerprint(_call(one)) == call_fingerprint(_call(other))
    assert call_fingerprint(_call(one)) != call_fingerprint(_call({"a": 1, "b": {"c": 2, "d": 4}}))


def test_cutting_a_request_in_calls_is_no_hop() -> None:
    assert a_request().hops == 1
    assert build_call_started(a_request(), a_request().content).hops == 2


def test_progress_only_rises() -> None:
    gate = ProgressLimiter()

    assert [gate.allows(percent, at_s=0) for percent in (0, 20, 20, 10, 30)] == [True, True, False, False, True]


def test_progress_goes_out_at_a_limited_rate() -> None:
    gate = ProgressLimiter()

    at_once = sum(gate.allows(step / 100, at_s=0) for step in range(1000))
    in_ten_seconds = sum(gate.allows(10 + step / 100, at_s=step / 100) for step in range(1000))

    assert at_once == PROGRESS_BURST
    assert in_ten_seconds == 19


def _call(arguments: dict[str, Any]) -> ToolExecution:
    return ToolExecution(call_id="c", tool="order", arguments=arguments)


def test_a_call_waits_while_another_one_with_its_arguments_runs() -> None:
    def act() -> dict[str, object]:
        raise OperationInProgress("tools.effect", "k", "now")

    with pytest.raises(RetryLater, match="the same arguments"):
        outcome_of(a_request().content, act)
