"""Orchestrator: leads each message to its answer; what does not need each other goes on side by side.

               ┌─ intent classified ──────────────────────────────────┐
    message ───┼─ context requested ─── context assembled ────────────┼─ model requested ── model answered ── response
               └─ tools requested ───── all have answered, ───────────┘                     or failed         ready
                                        or there are none: prepared

    model answered with calls ── tools requested ── all have answered ── model requested ── …, a round more

The model is asked once all three are there, or with what there is after PETIOLE_CONTEXT_TIMEOUT_S (10). It may
call tools up to PETIOLE_MAX_TOOL_ROUNDS (4) times for one message, then it is asked to do without. Tools that
have not answered after PETIOLE_TOOLS_TIMEOUT_S (120) are told to it as failed.

An answer that a newer message interrupted is no response: the newer message has its own.

Beside what it gathers it keeps nothing: where a message stands is read from its flow. Two deliveries that see the same
step done emit the next one under the same id, and publication lets it through once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

from petiole.events.catalog.input import InputEvent, TextMessageEvent
from petiole.events.catalog.llm import ModelEvent, ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import (
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
from petiole.events.catalog.tools import ToolFailedEvent, ToolResultEvent
from petiole.events.errors import StreamBusy
from petiole.events.event import Event
from petiole.events.ids import emitted_event_id
from petiole.tasks import Agent, Context, Gathered, later
from petiole.workers.agents.orchestrator.conversation_turn import (
    Turn,
    answers_to,
    following_round,
    read_turn,
    request_of,
    what_was_asked,
)
from petiole.workers.llm.rules.intent_rules import classify, plan_tools
from petiole.workers.settings import WorkerSettings

agent = Agent("orchestrator")


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
    """Go on once each tool has answered, well or badly: the tools are prepared, or the model's next round begins."""
    flow = context.flow()
    requested = request_of(event, flow)
    if requested is not None and requested.content.phase == "execute":
        return next_round(event, flow, requested)
    turn = read_turn(flow, event)
    if turn is None or not turn.is_answered_by_tools:
        return None
    return tools_prepared(event, turn.answers)


@agent.on("orchestrator.tools.requested", where={"content.phase": "execute"})
def wait_for_tools(event: ToolsRequestedEvent, context: Context) -> object:
    """Begin the model's next round without the tools that have not answered in time."""
    left = event.timestamp + timedelta(seconds=WorkerSettings().tools_timeout_s) - datetime.now(UTC)
    flow = context.flow()
    if left > timedelta(0) and len(answers_to(event.content.calls, flow)) < len(event.content.calls):
        return later(left)
    return next_round(event, flow, event, is_late=True)


def ask_model(gathered: Gathered, context: Context) -> Event | None:
    """Ask for the model with all that is known, once everything is there or there is no more time."""
    turn = read_turn(context.flow(), *gathered.came)
    return request_model(context.event, turn, gathered.missing) if turn else None


@agent.on_include
def gather_for_model() -> None:
    """Subscribe `ask_model` with the configured timeout."""
    parts = ("orchestrator.intent.classified", "memory.context.assembled", "orchestrator.tools.prepared")
    agent.gather(*parts, timeout=WorkerSettings().context_timeout_s)(ask_model)


@agent.on("llm.response.generated", "llm.response.failed")
def respond(event: ModelEvent) -> Event | None:
    """Make the model's answer the response, or an apology for the lack of one; have the tools run that it calls."""
    match event:
        case ResponseGeneratedEvent() if event.content.finish_reason == "interrupted":
            return None
        case ResponseGeneratedEvent() if event.content.calls:
            return execute_tools(event)
        case ResponseGeneratedEvent():
            return make_response(event, event.content.text)
        case ResponseFailedEvent():
            return make_response(event, apology(event.content))
    return None


def execute_tools(event: ResponseGeneratedEvent) -> ToolsRequestedEvent:
    """Ask for the tools that a model calls, once for each of its answers; their calls' ids follow from its id."""
    calls = tuple(
        ToolCall(call_id=emitted_event_id(event.event_id, place), tool=call.tool, arguments=call.arguments)
        for place, call in enumerate(event.content.calls)
    )
    content = ToolsRequest(calls=calls, phase="execute")
    return event.caused(ToolsRequestedEvent, event_id=emitted_event_id(event.event_id, len(calls)), content=content)


def next_round(
    event: Event, flow: Sequence[Event], requested: ToolsRequestedEvent, *, is_late: bool = False
) -> ModelRequestedEvent | None:
    """Ask the model again with what its tools gave, once in a round; None while some have yet to answer.

    Where it `is_late`, those have failed. At the last round it may call none any more.
    """
    late = f"it did not answer within {WorkerSettings().tools_timeout_s:g} s" if is_late else None
    events = [*flow, event]
    asked = what_was_asked(events, requested)
    following = following_round(events, requested, late=late)
    if asked is None or following is None:
        return None
    content = following.model_copy(update={"may_call_tools": following.round < WorkerSettings().max_tool_rounds})
    event_id = once_in_flow(event, f"model {content.round}")
    # A round is one hop, however many it takes: rounds have a bound of their own.
    return event.caused(ModelRequestedEvent, event_id=event_id, hops=asked.hops + 1, content=content)


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
        may_call_tools=WorkerSettings().max_tool_rounds > 0,
    )
    return event.caused(ModelRequestedEvent, event_id=once_in_flow(event, "model"), content=content)


def make_response(event: Event, text: str) -> ResponseReadyEvent:
    """Make the response, once in a flow."""
    content = FormattedResponse(text=text)
    return event.caused(ResponseReadyEvent, event_id=once_in_flow(event, "response"), content=content)


def apology(failure: ModelFailure) -> str:
    """Word for a user that there is no answer; what went wrong is for the operator, in the failure itself."""
    if failure.error_type == StreamBusy.__name__:
        return "I am still answering what you said before. Please say it again once I have."
    advice = "Please try again in a moment." if failure.is_retryable else "Please tell whoever runs me."
    return f"I am sorry, I have no answer: {failure.model} could not give one. {advice}"


def once_in_flow(event: Event, step: str) -> str:
    """Name a step that is taken once in a flow, whichever delivery takes it."""
    return str(uuid5(NAMESPACE_URL, repr((event.stream_id, event.correlation_id, step))))
