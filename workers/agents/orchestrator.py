"""Orchestrator: leads each message to its answer; what does not need each other goes on side by side.

               ┌─ intent classified ──────────────────────────────────┐
    message ───┼─ context requested ─── context assembled ────────────┼─ model requested ── model answered ── response
               └─ tools requested ───── all have answered, ───────────┘                     or failed         ready
                                        or there are none: prepared

The model is asked once all three are there, or with what there is after PETIOLE_ORCHESTRATOR_TIMEOUT_S (10).
Beside what it gathers it keeps nothing: where a message stands is read from its flow. Two deliveries that see the same
step done emit the next one under the same id, and publication lets it through once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import NAMESPACE_URL, uuid5

from pydantic_core import to_json

from events.catalog.input import InputEvent, TextMessageEvent
from events.catalog.llm import ModelEvent, ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from events.catalog.memory import AssembledContext, ContextAssembledEvent
from events.catalog.orchestrator import (
    ClassifiedIntent,
    ContextItem,
    ContextRequest,
    ContextRequestedEvent,
    FormattedResponse,
    IntentClassifiedEvent,
    ModelRequest,
    ModelRequestedEvent,
    PreparedTools,
    ResponseReadyEvent,
    ToolAnswer,
    ToolCall,
    ToolsPreparedEvent,
    ToolsRequest,
    ToolsRequestedEvent,
)
from events.catalog.tools import ToolFailedEvent, ToolResult, ToolResultEvent
from events.event import Event
from events.ids import emitted_event_id
from tasks import Agent, Context, Gathered
from workers.intents import classify, plan_tools

agent = Agent("orchestrator")

AnEvent = TypeVar("AnEvent", bound=Event)


def timeout_s() -> float:
    """Read how long an answer waits for what it is to stand on."""
    return float(os.environ.get("PETIOLE_ORCHESTRATOR_TIMEOUT_S") or 10)


@agent.on("input.*")
def understand(event: InputEvent) -> Iterator[Event]:
    """Tell what a message wants, and ask for what is remembered of it, and for the tools that the answer takes."""
    if not isinstance(event, TextMessageEvent):
        return
    text = event.content.text
    intent = classify(text)
    calls = planned_calls(event, intent)
    yield event.caused(IntentClassifiedEvent, content=intent)
    yield event.caused(ContextRequestedEvent, content=ContextRequest(query=text))
    yield request_tools(event, calls)
    if not calls:
        yield tools_prepared(event, ())


@agent.on("tools.execution.completed", "tools.execution.failed")
def collect(event: ToolResultEvent | ToolFailedEvent, context: Context) -> Event | None:
    """Say that the tools are prepared once each has answered, well or badly."""
    turn = read_turn(context.flow(), event)
    if turn is None or not turn.is_answered_by_tools:
        return None
    return tools_prepared(event, turn.answers)


@agent.gather(
    "orchestrator.intent.classified", "memory.context.assembled", "orchestrator.tools.prepared", timeout=timeout_s()
)
def ask_model(gathered: Gathered, context: Context) -> Event | None:
    """Ask for the model with all that is known, once everything is there or there is no more time."""
    turn = read_turn(context.flow(), *gathered.came)
    return request_model(context.event, turn, gathered.missing) if turn else None


@agent.on("llm.response.generated", "llm.response.failed")
def respond(event: ModelEvent) -> Event | None:
    """Make the model's answer the response, or an apology for the lack of one."""
    match event:
        case ResponseGeneratedEvent():
            return make_response(event, event.content.text)
        case ResponseFailedEvent():
            return make_response(event, apology(event.content))
    return None


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
    requested = _first(events, ToolsRequestedEvent)
    calls = requested.content.calls if requested else ()
    return Turn(
        message=message,
        intent=classified.content if classified else classify(message.content.text),
        recalled=assembled.content if assembled else None,
        calls=calls,
        answers=tuple(_answers(calls, events)),
    )


def planned_calls(message: TextMessageEvent, intent: ClassifiedIntent) -> tuple[ToolCall, ...]:
    """Plan the tool calls of a message; their ids follow from the message's."""
    plans = plan_tools(intent, message.content.text)
    return tuple(
        ToolCall(call_id=emitted_event_id(message.event_id, place), tool=plan.tool, arguments=plan.arguments)
        for place, plan in enumerate(plans)
    )


def request_tools(event: Event, calls: tuple[ToolCall, ...]) -> ToolsRequestedEvent:
    """Ask for the tools to be run before the answer, if any, once in a flow."""
    content = ToolsRequest(calls=calls, phase="prepare")
    return event.caused(ToolsRequestedEvent, event_id=once_in_flow(event, "tools"), content=content)


def tools_prepared(event: Event, answers: tuple[ToolAnswer, ...]) -> ToolsPreparedEvent:
    """Say that all tools have answered, or that none were asked, once in a flow."""
    content = PreparedTools(answers=answers)
    return event.caused(ToolsPreparedEvent, event_id=once_in_flow(event, "prepared"), content=content)


def request_model(event: Event, turn: Turn, missing: tuple[str, ...] = ()) -> ModelRequestedEvent:
    """Ask for the model with all that is known of a turn, once in a flow; `missing` is what did not come in time."""
    recalled = turn.recalled.items if turn.recalled else ()
    content = ModelRequest(
        text=turn.message.content.text,
        intent=turn.intent.intent,
        context=tuple(ContextItem(role=item.role, text=item.text) for item in recalled),
        tools=turn.answers,
        missing=missing,
    )
    return event.caused(ModelRequestedEvent, event_id=once_in_flow(event, "model"), content=content)


def make_response(event: Event, text: str) -> ResponseReadyEvent:
    """Make the response, once in a flow."""
    content = FormattedResponse(text=text)
    return event.caused(ResponseReadyEvent, event_id=once_in_flow(event, "response"), content=content)


def apology(failure: ModelFailure) -> str:
    """Word for a user that there is no answer; what went wrong is for the operator, in the failure itself."""
    advice = "Please try again in a moment." if failure.is_retryable else "Please tell whoever runs me."
    return f"I am sorry, I have no answer: {failure.model} could not give one. {advice}"


def once_in_flow(event: Event, step: str) -> str:
    """Name a step that is taken once in a flow, whichever delivery takes it."""
    return str(uuid5(NAMESPACE_URL, repr((event.stream_id, event.correlation_id, step))))


def _first(events: Sequence[Event], kind: type[AnEvent]) -> AnEvent | None:
    return next((event for event in events if isinstance(event, kind)), None)


def _answers(calls: Sequence[ToolCall], events: Sequence[Event]) -> Iterator[ToolAnswer]:
    said = {event.content.call_id: event for event in events if isinstance(event, ToolResultEvent | ToolFailedEvent)}
    for call in calls:
        if call.call_id in said:
            yield _answer(said[call.call_id])


def _answer(event: ToolResultEvent | ToolFailedEvent) -> ToolAnswer:
    content = event.content
    if isinstance(content, ToolResult):
        return ToolAnswer(tool=content.tool, ok=content.ok, text=content.error or _in_words(content))
    return ToolAnswer(tool=content.tool, ok=False, text=content.error)


def _in_words(result: ToolResult) -> str:
    text = result.data.get("text", result.value)
    return text if isinstance(text, str) else to_json(text).decode()
