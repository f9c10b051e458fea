"""Conversation turns: read the state of one user message from the events of its flow. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic_core import to_json

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.memory import AssembledContext, ContextAssembledEvent
from petiole.events.catalog.orchestrator import (
    ClassifiedIntent,
    IntentClassifiedEvent,
    ModelRequest,
    ModelRequestedEvent,
    ToolCall,
    ToolMessage,
    ToolRound,
    ToolsRequestedEvent,
)
from petiole.events.catalog.tools import ToolFailedEvent, ToolResult, ToolResultEvent
from petiole.events.event import Event
from petiole.workers.llm.rules.intent_rules import classify_intent

EventOfKind = TypeVar("EventOfKind", bound=Event)


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """The state of one user message and its answer, as its flow shows it."""

    message: TextMessageEvent
    intent: ClassifiedIntent
    context: AssembledContext | None
    calls: tuple[ToolCall, ...]
    answers: tuple[ToolMessage, ...]

    @property
    def is_answered_by_tools(self) -> bool:
        """Whether tools were called and all of them have answered."""
        return bool(self.calls) and len(self.answers) == len(self.calls)


def read_turn(flow: Sequence[Event], *current: Event) -> ConversationTurn | None:
    """Read the turn of a flow. The flow may already contain the `current` events.

    Returns None if the flow contains no message from a user.
    """
    events = [*flow, *current]
    message = _first_of_type(events, TextMessageEvent)
    if message is None:
        return None
    classified = _first_of_type(events, IntentClassifiedEvent)
    assembled = _first_of_type(events, ContextAssembledEvent)
    calls = _prepared_calls(events)
    return ConversationTurn(
        message=message,
        intent=classified.content if classified else classify_intent(message.content.text),
        context=assembled.content if assembled else None,
        calls=calls,
        answers=collect_answers(calls, events),
    )


def next_model_request(
    events: Sequence[Event], tools_request: ToolsRequestedEvent, *, timeout_reason: str | None = None
) -> ModelRequest | None:
    """Build the next request to a model that called tools; None while answers are missing.

    With `timeout_reason`, calls without an answer count as failed for that reason.
    """
    calls = tools_request.content.calls
    answers = collect_answers(calls, events, timeout_reason=timeout_reason)
    request, response = find_model_request(events, tools_request), _find_by_id(events, tools_request.causation_id)
    if len(answers) < len(calls) or request is None or not isinstance(response, ResponseGeneratedEvent):
        return None
    rounds = (*request.content.rounds, ToolRound(text=response.content.text, calls=calls, answers=answers))
    return request.content.model_copy(update={"round": len(rounds), "rounds": rounds})


def find_model_request(events: Sequence[Event], tools_request: ToolsRequestedEvent) -> ModelRequestedEvent | None:
    """Find the model request whose answer called these tools."""
    response = _find_by_id(events, tools_request.causation_id)
    request = _find_by_id(events, response.causation_id) if response else None
    return request if isinstance(request, ModelRequestedEvent) else None


def find_tools_request(result: ToolResultEvent | ToolFailedEvent, flow: Sequence[Event]) -> ToolsRequestedEvent | None:
    """Find the request that contains the call of a result."""
    requests = (event for event in flow if isinstance(event, ToolsRequestedEvent))
    call_id = result.content.call_id
    return next((event for event in requests if any(call.call_id == call_id for call in event.content.calls)), None)


def collect_answers(
    calls: Sequence[ToolCall], events: Sequence[Event], *, timeout_reason: str | None = None
) -> tuple[ToolMessage, ...]:
    """Collect the answers to calls, in the order of the calls.

    Calls without an answer are left out; with `timeout_reason` they count as failed for that reason.
    """
    return tuple(_answers(calls, events, timeout_reason))


def _answers(calls: Sequence[ToolCall], events: Sequence[Event], timeout_reason: str | None) -> Iterator[ToolMessage]:
    results = {event.content.call_id: event for event in events if isinstance(event, ToolResultEvent | ToolFailedEvent)}
    for call in calls:
        if call.call_id in results:
            yield _tool_answer(results[call.call_id])
        elif timeout_reason is not None:
            yield ToolMessage(tool=call.tool, ok=False, text=timeout_reason)


def _find_by_id(events: Sequence[Event], event_id: str | None) -> Event | None:
    return next((event for event in events if event.event_id == event_id), None)


def _first_of_type(events: Sequence[Event], kind: type[EventOfKind]) -> EventOfKind | None:
    return next((event for event in events if isinstance(event, kind)), None)


def _prepared_calls(events: Sequence[Event]) -> tuple[ToolCall, ...]:
    requests = (event.content for event in events if isinstance(event, ToolsRequestedEvent))
    return next((content.calls for content in requests if content.phase == "prepare"), ())


def _tool_answer(event: ToolResultEvent | ToolFailedEvent) -> ToolMessage:
    content = event.content
    if isinstance(content, ToolResult):
        return ToolMessage(tool=content.tool, ok=content.ok, text=content.error or _result_text(content))
    return ToolMessage(tool=content.tool, ok=False, text=content.error)


def _result_text(result: ToolResult) -> str:
    text = result.data.get("text", result.value)
    return text if isinstance(text, str) else to_json(text).decode()
