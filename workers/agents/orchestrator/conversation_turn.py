"""Turns: what the events of a flow tell of a message on the way to its answer. Pure: it reads, and says nothing."""

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
    """What a flow tells so far of one message on the way to its answer."""

    message: TextMessageEvent
    intent: ClassifiedIntent
    context: AssembledContext | None
    calls: tuple[ToolCall, ...]
    answers: tuple[ToolMessage, ...]

    @property
    def is_answered_by_tools(self) -> bool:
        """Tools were asked, and each has answered."""
        return bool(self.calls) and len(self.answers) == len(self.calls)


def read_turn(flow: Sequence[Event], *current: Event) -> ConversationTurn | None:
    """Read a flow and the events at hand, which it may hold already; None where no user's message began it."""
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
    """Word what a model is asked next that called tools; None while some have yet to answer.

    `late` says why nobody waits for those any more.
    """
    calls = tools_request.content.calls
    answers = collect_answers(calls, events, timeout_reason=timeout_reason)
    asked, said = find_model_request(events, tools_request), _find_by_id(events, tools_request.causation_id)
    if len(answers) < len(calls) or asked is None or not isinstance(said, ResponseGeneratedEvent):
        return None
    rounds = (*asked.content.rounds, ToolRound(text=said.content.text, calls=calls, answers=answers))
    return asked.content.model_copy(update={"round": len(rounds), "rounds": rounds})


def find_model_request(events: Sequence[Event], tools_request: ToolsRequestedEvent) -> ModelRequestedEvent | None:
    """Find what a model had been asked that called these tools."""
    response = _find_by_id(events, tools_request.causation_id)
    asked = _find_by_id(events, response.causation_id) if response else None
    return asked if isinstance(asked, ModelRequestedEvent) else None


def find_tools_request(result: ToolResultEvent | ToolFailedEvent, flow: Sequence[Event]) -> ToolsRequestedEvent | None:
    """Find what asked for a call."""
    asked = (event for event in flow if isinstance(event, ToolsRequestedEvent))
    call_id = result.content.call_id
    return next((event for event in asked if any(call.call_id == call_id for call in event.content.calls)), None)


def collect_answers(
    calls: Sequence[ToolCall], events: Sequence[Event], *, timeout_reason: str | None = None
) -> tuple[ToolMessage, ...]:
    """Find what was answered to calls, in their order; with `late`, those without an answer have failed, and why."""
    return tuple(_answers(calls, events, timeout_reason))


def _answers(calls: Sequence[ToolCall], events: Sequence[Event], timeout_reason: str | None) -> Iterator[ToolMessage]:
    said = {event.content.call_id: event for event in events if isinstance(event, ToolResultEvent | ToolFailedEvent)}
    for call in calls:
        if call.call_id in said:
            yield _tool_answer(said[call.call_id])
        elif timeout_reason is not None:
            yield ToolMessage(tool=call.tool, ok=False, text=timeout_reason)


def _find_by_id(events: Sequence[Event], event_id: str | None) -> Event | None:
    return next((event for event in events if event.event_id == event_id), None)


def _first_of_type(events: Sequence[Event], kind: type[EventOfKind]) -> EventOfKind | None:
    return next((event for event in events if isinstance(event, kind)), None)


def _prepared_calls(events: Sequence[Event]) -> tuple[ToolCall, ...]:
    asked = (event.content for event in events if isinstance(event, ToolsRequestedEvent))
    return next((content.calls for content in asked if content.phase == "prepare"), ())


def _tool_answer(event: ToolResultEvent | ToolFailedEvent) -> ToolMessage:
    content = event.content
    if isinstance(content, ToolResult):
        return ToolMessage(tool=content.tool, ok=content.ok, text=content.error or _result_text(content))
    return ToolMessage(tool=content.tool, ok=False, text=content.error)


def _result_text(result: ToolResult) -> str:
    text = result.data.get("text", result.value)
    return text if isinstance(text, str) else to_json(text).decode()
