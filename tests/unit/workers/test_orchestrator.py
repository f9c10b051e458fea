"""How the orchestrator reads a flow, and the step it takes next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from petiole.events import (
    AssembledContext,
    AudioChunkEvent,
    AudioContent,
    ContextAssembledEvent,
    Event,
    EventContext,
    TextContent,
    TextMessageEvent,
    ToolResult,
    ToolResultEvent,
)
from petiole.events.catalog.llm import GeneratedResponse, ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.orchestrator import (
    ModelRequestedEvent,
    ToolCall,
    ToolMessage,
    ToolsPreparedEvent,
    ToolsRequestedEvent,
)
from petiole.events.catalog.tools import ToolFailedEvent, ToolFailure
from petiole.workers.agents.orchestrator import (
    build_tools_prepared,
    plan_calls,
    request_model,
    request_tools,
    respond,
    understand,
)
from petiole.workers.agents.orchestrator.conversation_turn import read_turn
from petiole.workers.llm.rules.intent_rules import classify_intent


def a_message(text: str = "What is 12 * 7 and 3 + 4?") -> TextMessageEvent:
    context = EventContext(source="test", user_id="u-1")
    return TextMessageEvent(stream_id="s-1", content=TextContent(text=text), context=context)


def assembled(message: TextMessageEvent, *texts: str) -> ContextAssembledEvent:
    items = tuple(MemoryItem(role="user", text=text, said_at=message.timestamp) for text in texts)
    content = AssembledContext(query=message.content.text, items=items)
    return message.caused(ContextAssembledEvent, content=content)


def tools_requested(message: TextMessageEvent) -> ToolsRequestedEvent:
    return request_tools(message, plan_calls(message, classify_intent(message.content.text)))


def completed(cause: Event, call: ToolCall, text: str) -> ToolResultEvent:
    content = ToolResult(call_id=call.call_id, tool=call.tool, data={"value": 1, "text": text})
    return cause.caused(ToolResultEvent, content=content)


def failed(cause: Event, call: ToolCall, error: str) -> ToolFailedEvent:
    content = ToolFailure(call_id=call.call_id, tool=call.tool, error_type="ToolFailed", error=error)
    return cause.caused(ToolFailedEvent, content=content)


def model_requested(flow: Sequence[Event], at_hand: Event) -> ModelRequestedEvent:
    turn = read_turn(flow, at_hand)
    assert turn is not None
    return request_model(at_hand, turn)


def answers_in(flow: Sequence[Event], at_hand: Event) -> tuple[ToolMessage, ...]:
    turn = read_turn(flow, at_hand)
    assert turn is not None
    return turn.answers


def test_a_message_is_classified_and_its_context_and_tools_are_asked_for_side_by_side() -> None:
    message = a_message("What is 12 * 7?")

    said = list(understand(message))

    assert [event.event_type for event in said] == [
        "orchestrator.intent.classified",
        "orchestrator.context.requested",
        "orchestrator.tools.requested",
    ]
    assert {event.correlation_id for event in said} == {message.correlation_id}
    assert {event.causation_id for event in said} == {message.event_id}
    assert all((event.context, event.trace_id) == (message.context, message.trace_id) for event in said)
    (tools,) = (event for event in said if isinstance(event, ToolsRequestedEvent))
    assert tools.content.phase == "prepare"


def test_where_no_tool_is_needed_an_empty_preparation_is_said_at_once() -> None:
    *_, requested, prepared = understand(a_message("Hello, can you help me?"))

    assert isinstance(requested, ToolsRequestedEvent)
    assert isinstance(prepared, ToolsPreparedEvent)
    assert (requested.content.calls, requested.content.phase) == ((), "prepare")
    assert prepared.content.answers == ()


def test_other_input_sets_nothing_off() -> None:
    chunk = AudioChunkEvent(stream_id="s-1", content=AudioContent(data=b"\0\0", duration_ms=1))

    assert list(understand(chunk)) == []


def test_a_flow_that_no_message_began_is_left_alone() -> None:
    alone = ContextAssembledEvent(stream_id="s-1", content=AssembledContext(query="weather"))

    assert read_turn([], alone) is None


def test_calls_are_planned_under_the_same_ids_each_time() -> None:
    message = a_message()

    first, again = tools_requested(message), tools_requested(message)

    calls = first.content.calls
    assert [call.arguments for call in calls] == [{"expression": "12 * 7"}, {"expression": "3 + 4"}]
    assert len({call.call_id for call in calls}) == 2
    assert (again.content, again.event_id) == (first.content, first.event_id)


def test_tools_are_prepared_once_all_have_answered() -> None:
    message = a_message()
    requested = tools_requested(message)
    one, two = requested.content.calls
    answer_one, answer_two = completed(requested, one, "12 * 7 is 84"), failed(requested, two, "no")

    early = read_turn([message, requested], answer_one)
    late = read_turn([message, requested, answer_one, answer_two], answer_two)

    assert early is not None
    assert not early.is_answered_by_tools
    assert late is not None
    assert late.is_answered_by_tools


def test_a_result_that_nobody_asked_for_is_no_answer() -> None:
    message = a_message("hello")
    stray = completed(message, ToolCall(call_id="c-9", tool="clock"), "noon")

    turn = read_turn([message], stray)

    assert turn is not None
    assert not turn.is_answered_by_tools


@pytest.mark.parametrize("last", [0, 1])
def test_racing_results_prepare_the_same(last: int) -> None:
    message = a_message()
    requested = tools_requested(message)
    results = [completed(requested, call, f"answer {place}") for place, call in enumerate(requested.content.calls)]

    said = build_tools_prepared(results[last], answers_in([message, requested, *results], results[last]))
    other = build_tools_prepared(results[1 - last], answers_in([message, requested, results[last]], results[1 - last]))

    assert said.event_id == other.event_id
    assert said.content == other.content
    assert [answer.text for answer in said.content.answers] == ["answer 0", "answer 1"]


def test_what_did_not_come_in_time_is_told_to_the_model() -> None:
    message = a_message("Hello")
    turn = read_turn([message])
    assert turn is not None

    request = request_model(message, turn, ("memory.context.assembled",)).content

    assert request.is_degraded
    assert request.missing == ("memory.context.assembled",)
    assert not request_model(message, turn).content.is_degraded


def test_the_model_is_told_all_that_is_known() -> None:
    message = a_message("What is 12 * 7?")
    context = assembled(message, "I like sums")
    requested = tools_requested(message)
    (call,) = requested.content.calls

    request = model_requested([message, context, requested], failed(requested, call, "too large")).content

    assert (request.text, request.intent) == ("What is 12 * 7?", "calculation")
    assert [(item.role, item.text) for item in request.context] == [("user", "I like sums")]
    assert [(answer.ok, answer.text) for answer in request.tools] == [(False, "too large")]


def test_a_value_without_words_is_told_as_json() -> None:
    message = a_message("What is 12 * 7?")
    requested = tools_requested(message)
    (call,) = requested.content.calls
    content = ToolResult(call_id=call.call_id, tool="calculator", data={"value": [84]})

    request = model_requested([message, requested], requested.caused(ToolResultEvent, content=content)).content

    assert request.tools[0].text == "[84]"


def test_one_correlation_of_another_stream_is_another_flow() -> None:
    message = a_message()
    elsewhere = message.model_copy(update={"stream_id": "s-2"})

    assert request_tools(message, ()).event_id != request_tools(elsewhere, ()).event_id


def test_a_model_s_answer_is_the_response_once() -> None:
    answer = a_message().caused(ResponseGeneratedEvent, content=GeneratedResponse(text="84", model="rules"))

    response, again = respond(answer), respond(answer)

    assert response is not None
    assert again is not None
    assert response.content.model_dump()["text"] == "84"
    assert response.event_id == again.event_id


@pytest.mark.parametrize(("is_retryable", "advice"), [(True, "try again"), (False, "contact the operator")])
def test_a_model_s_failure_is_answered_with_an_apology(is_retryable: bool, advice: str) -> None:
    failure = ModelFailure(model="openai", error_type="X", error="key sk-1", is_retryable=is_retryable)

    response = respond(a_message().caused(ResponseFailedEvent, content=failure))

    assert response is not None
    text = response.content.model_dump()["text"]
    assert "sorry" in text
    assert advice in text
    assert "sk-1" not in text
