"""Orchestrator: coordinates the steps from a user's message to its response. Independent steps run concurrently.

               ┌─ intent classified ──────────────────────────────────┐
    message ───┼─ context requested ─── context assembled ────────────┼─ model requested ── model answered ── response
               └─ tools requested ───── all have answered, ───────────┘                     or failed         ready
                                        or there are none: prepared

    model answered with calls ── tools requested ── all have answered ── model requested ── …, next tool round

The model is requested when all three parts have arrived. After PETIOLE_CONTEXT_TIMEOUT_S (10) it is requested with the
parts that have. It may call tools in up to PETIOLE_MAX_TOOL_ROUNDS (4) rounds for one message. A tool that has not
answered after PETIOLE_TOOLS_TIMEOUT_S (120) is reported to the model as failed.

An answer that a newer message interrupted produces no response; the newer message produces its own.

The orchestrator stores only the parts it gathers. It reads the progress of a message from its flow. Two deliveries that
see the same step completed publish the next one with the same event id, so it is published once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from petiole.events.catalog.input import InputEvent, TextMessageEvent
from petiole.events.catalog.llm import ModelEvent, ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.memory import AssembledContext, MemoryItem
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
    ToolCall,
    ToolMessage,
    ToolsPreparedEvent,
    ToolsRequest,
    ToolsRequestedEvent,
)
from petiole.events.catalog.tools import ToolFailedEvent, ToolResultEvent
from petiole.events.errors import StreamBusy
from petiole.events.event import Event
from petiole.events.ids import derived_event_id, emitted_event_id
from petiole.tasks import Agent, Context, GatheredEvents, later
from petiole.workers.agents.orchestrator.conversation_turn import (
    ConversationTurn,
    collect_answers,
    find_model_request,
    find_tools_request,
    next_model_request,
    read_turn,
)
from petiole.workers.llm.rules.intent_rules import classify_intent, plan_tools
from petiole.workers.llm.spending_caps import cap_apology
from petiole.workers.settings import WorkerSettings

agent = Agent("orchestrator")


@agent.on("input.*", where={"content.format": {"exists": False}})  # no audio, no video
def understand(event: InputEvent) -> Iterator[Event]:
    """Classify a message, and request memories and the tools that its answer needs."""
    if not isinstance(event, TextMessageEvent):
        return
    text = event.content.text
    intent = classify_intent(text)
    calls = plan_calls(event, intent)
    yield event.caused(IntentClassifiedEvent, content=intent)
    yield event.caused(ContextRequestedEvent, content=ContextRequest(query=text))
    yield request_tools(event, calls)
    if not calls:
        yield build_tools_prepared(event, ())


@agent.on("tools.execution.completed", "tools.execution.failed")
def collect_tool_results(event: ToolResultEvent | ToolFailedEvent, context: Context) -> Event | None:
    """Continue when every tool has completed or failed: publish the results, or request the model's next round."""
    flow = context.flow()
    requested = find_tools_request(event, flow)
    if requested is not None and requested.content.phase == "execute":
        return request_next_round(event, flow, requested)
    turn = read_turn(flow, event)
    if turn is None or not turn.is_answered_by_tools:
        return None
    return build_tools_prepared(event, turn.answers)


@agent.on("orchestrator.tools.requested", where={"content.phase": "execute"})
def wait_for_tools(event: ToolsRequestedEvent, context: Context) -> object:
    """Request the model's next round when the time for tools is over."""
    remaining = event.timestamp + timedelta(seconds=WorkerSettings().tools_timeout_s) - context.bus.now()
    flow = context.flow()
    if remaining > timedelta(0) and len(collect_answers(event.content.calls, flow)) < len(event.content.calls):
        return later(remaining)
    return request_next_round(event, flow, event, is_late=True)


def ask_model(gathered: GatheredEvents, context: Context) -> Event | None:
    """Request the model when all parts have arrived or the timeout is reached."""
    turn = read_turn(context.flow(), *gathered.arrived)
    return request_model(context.event, turn, gathered.missing) if turn else None


@agent.on_include
def gather_for_model() -> None:
    """Subscribe `ask_model` with the configured timeout."""
    parts = ("orchestrator.intent.classified", "memory.context.assembled", "orchestrator.tools.prepared")
    agent.gather(*parts, timeout=WorkerSettings().context_timeout_s)(ask_model)


@agent.on("llm.response.generated", "llm.response.failed")
def respond(event: ModelEvent) -> Event | None:
    """Turn a model's answer into a response, its failure into an apology, and its tool calls into a tools request."""
    match event:
        case ResponseGeneratedEvent() if event.content.finish_reason == "interrupted":
            return None
        case ResponseGeneratedEvent() if event.content.calls:
            return execute_tools(event)
        case ResponseGeneratedEvent():
            return build_response(event, event.content.text)
        case ResponseFailedEvent():
            return build_response(event, apology_text(event.content))
    return None


def execute_tools(event: ResponseGeneratedEvent) -> ToolsRequestedEvent:
    """Request the tools that a model calls. All ids are derived from the answer's event id, so it happens once."""
    calls = tuple(
        ToolCall(call_id=emitted_event_id(event.event_id, index), tool=call.tool, arguments=call.arguments)
        for index, call in enumerate(event.content.calls)
    )
    content = ToolsRequest(calls=calls, phase="execute")
    return event.caused(ToolsRequestedEvent, event_id=emitted_event_id(event.event_id, len(calls)), content=content)


def request_next_round(
    event: Event, flow: Sequence[Event], tools_request: ToolsRequestedEvent, *, is_late: bool = False
) -> ModelRequestedEvent | None:
    """Request the model again with the results of its tools, once per round. In the last round it may call no tools.

    Returns None while results are missing. If `is_late`, the missing tools are reported as failed instead.
    """
    settings = WorkerSettings()
    timeout_reason = f"it did not answer within {settings.tools_timeout_s:g} s" if is_late else None
    events = [*flow, event]
    previous = find_model_request(events, tools_request)
    request = next_model_request(events, tools_request, timeout_reason=timeout_reason)
    if previous is None or request is None:
        return None
    content = request.model_copy(update={"may_call_tools": request.round < settings.max_tool_rounds})
    event_id = flow_event_id(event, f"model {content.round}")
    # A tool round counts as one hop, because rounds have their own limit.
    return event.caused(ModelRequestedEvent, event_id=event_id, hops=previous.hops + 1, content=content)


def plan_calls(message: TextMessageEvent, intent: ClassifiedIntent) -> tuple[ToolCall, ...]:
    """Plan the tool calls of a message. Their ids are derived from the message's event id."""
    plans = plan_tools(intent, message.content.text)
    return tuple(
        ToolCall(call_id=emitted_event_id(message.event_id, index), tool=plan.tool, arguments=plan.arguments)
        for index, plan in enumerate(plans)
    )


def request_tools(event: Event, calls: tuple[ToolCall, ...]) -> ToolsRequestedEvent:
    """Request the tools that run before the model, once per flow. `calls` may be empty."""
    content = ToolsRequest(calls=calls, phase="prepare")
    return event.caused(ToolsRequestedEvent, event_id=flow_event_id(event, "tools"), content=content)


def build_tools_prepared(event: Event, answers: tuple[ToolMessage, ...]) -> ToolsPreparedEvent:
    """Build the event with all tool results, once per flow. `answers` is empty if no tools were requested."""
    content = PreparedTools(answers=answers)
    return event.caused(ToolsPreparedEvent, event_id=flow_event_id(event, "prepared"), content=content)


def request_model(event: Event, turn: ConversationTurn, missing: tuple[str, ...] = ()) -> ModelRequestedEvent:
    """Request the model for a turn, once per flow. `missing` names the parts that did not arrive in time."""
    known = turn.context or AssembledContext(query=turn.message.content.text)
    content = ModelRequest(
        text=turn.message.content.text,
        intent=turn.intent.intent,
        said_by=turn.message.context.user_id,
        said_at=turn.message.timestamp,
        turns=context_items(known.turns),
        summary=known.summary,
        facts=known.facts,
        notes=tuple(notes_for_user(known)),
        context=context_items(known.items),
        tools=turn.answers,
        missing=missing,
        may_call_tools=WorkerSettings().max_tool_rounds > 0,
    )
    return event.caused(ModelRequestedEvent, event_id=flow_event_id(event, "model"), content=content)


def context_items(memories: Sequence[MemoryItem]) -> tuple[ContextItem, ...]:
    """Convert memories to the form in which a model receives them."""
    return tuple(
        ContextItem(role=memory.role, text=memory.text, said_at=memory.said_at, said_by=memory.said_by)
        for memory in memories
    )


def notes_for_user(known: AssembledContext) -> Iterator[str]:
    """Write what the answer has to tell: what was forgotten, and contradictions, about which it has to ask."""
    if known.forgotten is not None:
        facts, messages = known.forgotten.facts, known.forgotten.messages
        counts = f"{facts} fact{'s' * (facts != 1)} and {messages} message{'s' * (messages != 1)}"
        yield (
            f"I have forgotten {counts}."
            if facts or messages
            else "I remember nothing of that, so nothing was forgotten."
        )
    for conflict in known.conflicts:
        attribute = conflict.subject.removeprefix("user: ")
        yield (
            f"You said before that your {attribute} is {conflict.earlier}, and now {conflict.later}. Which is right? "
            f"Until you tell me, I keep {conflict.later}."
        )


def build_response(event: Event, text: str) -> ResponseReadyEvent:
    """Build the response, once per flow."""
    content = FormattedResponse(text=text)
    return event.caused(ResponseReadyEvent, event_id=flow_event_id(event, "response"), content=content)


def apology_text(failure: ModelFailure) -> str:
    """Write the apology for a missing answer. The error text is for operators, so the apology does not quote it."""
    if failure.error_type == StreamBusy.__name__:
        return "I am still answering your previous message. Please send this one again when I have finished."
    if apology := cap_apology(failure):
        return apology
    advice = "Please try again in a moment." if failure.is_retryable else "Please contact the operator."
    return f"I am sorry, I have no answer: {failure.model} could not give one. {advice}"


def flow_event_id(event: Event, step: str) -> str:
    """Derive the event id of a step from its flow, so that the step is published once."""
    return derived_event_id(event.stream_id, event.correlation_id, step)
