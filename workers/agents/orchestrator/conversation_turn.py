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
    ToolAnswer,
    ToolCall,
    ToolRound,
    ToolsRequestedEvent,
)
from petiole.events.catalog.tools import ToolFailedEvent, ToolResult, ToolResultEvent
from petiole.events.event import Event
from petiole.workers.llm.rules.intent_rules import classify

AnEvent = TypeVar("AnEvent", bound=Event)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a flow tells so far of one message on the way to its answer."""

    message: TextMessageEvent
    intent: ClassifiedIntent
    recalled: AssembledContext | None
    calls: tuple[ToolCall, ...]
    answers: tuple[ToolAnswer, ...]

    @property
    def is_answered_by_tools(self) -> bool:
        """Tools were asked, and each has answered."""
        return bool(self.calls) and len(self.answers) == len(self.calls)


def read_turn(flow: Sequence[Event], *at_hand: Event) -> Turn | None:
    """Read a flow and the events at hand, which it may hold already; None where no user's message began it."""
    events = [*flow, *at_hand]
    message = _first(events, TextMessageEvent)
    if message is None:
        return None
    classified = _first(events, IntentClassifiedEvent)
    assembled = _first(events, ContextAssembledEvent)
    calls = _prepared_calls(events)
    return Turn(
        message=message,
        intent=classified.content if classified else classify(message.content.text),
        recalled=assembled.content if assembled else None,
        calls=calls,
        answers=answers_to(calls, events),
    )


def following_round(
    events: Sequence[Event], requested: ToolsRequestedEvent, *, late: str | None = None
) -> ModelRequest | None:
    """Word what a model is asked next that called tools; None while some have yet to answer.

    `late` says why nobody waits for those any more.
    """
    calls = requested.content.calls
    answers = answers_to(calls, events, late=late)
    asked, said = what_was_asked(events, requested), _by_id(events, requested.causation_id)
    if len(answers) < len(calls) or asked is None or not isinstance(said, ResponseGeneratedEvent):
        return None
    rounds = (*asked.content.rounds, ToolRound(text=said.content.text, calls=calls, answers=answers))
    return asked.content.model_copy(update={"round": len(rounds), "rounds": rounds})


def what_was_asked(events: Sequence[Event], requested: ToolsRequestedEvent) -> ModelRequestedEvent | None:
    """Find what a model had been asked that called these tools."""
    response = _by_id(events, requested.causation_id)
    asked = _by_id(events, response.causation_id) if response else None
    return asked if isinstance(asked, ModelRequestedEvent) else None


def request_of(answered: ToolResultEvent | ToolFailedEvent, flow: Sequence[Event]) -> ToolsRequestedEvent | None:
    """Find what asked for a call."""
    asked = (event for event in flow if isinstance(event, ToolsRequestedEvent))
    call_id = answered.content.call_id
    return next((event for event in asked if any(call.call_id == call_id for call in event.content.calls)), None)


def answers_to(
    calls: Sequence[ToolCall], events: Sequence[Event], *, late: str | None = None
) -> tuple[ToolAnswer, ...]:
    """Find what was answered to calls, in their order; with `late`, those without an answer have failed, and why."""
    return tuple(_answers(calls, events, late))


def _answers(calls: Sequence[ToolCall], events: Sequence[Event], late: str | None) -> Iterator[ToolAnswer]:
    said = {event.content.call_id: event for event in events if isinstance(event, ToolResultEvent | ToolFailedEvent)}
    for call in calls:
        if call.call_id in said:
            yield _answer(said[call.call_id])
        elif late is not None:
            yield ToolAnswer(tool=call.tool, ok=False, text=late)


def _by_id(events: Sequence[Event], event_id: str | None) -> Event | None:
    return next((event for event in events if event.event_id == event_id), None)


def _first(events: Sequence[Event], kind: type[AnEvent]) -> AnEvent | None:
    return next((event for event in events if isinstance(event, kind)), None)


def _prepared_calls(events: Sequence[Event]) -> tuple[ToolCall, ...]:
    asked = (event.content for event in events if isinstance(event, ToolsRequestedEvent))
    return next((content.calls for content in asked if content.phase == "prepare"), ())


def _answer(event: ToolResultEvent | ToolFailedEvent) -> ToolAnswer:
    content = event.content
    if isinstance(content, ToolResult):
        return ToolAnswer(tool=content.tool, ok=content.ok, text=content.error or _in_words(content))
    return ToolAnswer(tool=content.tool, ok=False, text=content.error)


def _in_words(result: ToolResult) -> str:
    text = result.data.get("text", result.value)
    return text if isinstance(text, str) else to_json(text).decode()
