"""Memory: keeps what was said in each stream, and tells what of it bears on a question."""

from __future__ import annotations

from collections.abc import Sequence

from events.catalog.input import TextMessageEvent
from events.catalog.llm import ResponseGeneratedEvent
from events.catalog.memory import AssembledContext, ContextAssembledEvent, Recollection
from events.catalog.orchestrator import ContextRequest, ContextRequestedEvent
from events.catalog.tools import ToolResultEvent
from events.event import Event
from tasks import Agent, Context
from workers.recall.earlier import said_earlier
from workers.recall.words import rank

agent = Agent("memory")

# What a tool found in the memory is there already.
_TEACHES_NOTHING = {"recall"}


@agent.on("input.*", "tools.execution.completed", "llm.response.generated")
def remember(event: Event, context: Context) -> None:
    """Keep what users, models and tools said. Safe to run twice: an event is kept under its id."""
    flow = context.flow() if isinstance(event, ToolResultEvent) else []
    recollection = recollection_of(event, flow)
    if recollection is not None:
        context.memories.keep(event.stream_id, event.event_id, recollection)


@agent.on("orchestrator.context.requested")
def assemble(event: ContextRequestedEvent, context: Context) -> ContextAssembledEvent:
    """Tell what bears on a query; nothing is an answer too."""
    earlier = said_earlier(context.memories.of(event.stream_id), context.flow())
    return event.caused(ContextAssembledEvent, content=assembled(event.content, earlier))


def recollection_of(event: Event, flow: Sequence[Event]) -> Recollection | None:
    """Word what an event leaves to be remembered; None where that is nothing."""
    match event:
        case TextMessageEvent():
            return Recollection(role="user", text=event.content.text, said_at=event.timestamp)
        case ResponseGeneratedEvent() if event.content.text:
            return Recollection(role="assistant", text=event.content.text, said_at=event.timestamp)
        case ToolResultEvent() if event.content.ok and event.content.tool not in _TEACHES_NOTHING:
            return Recollection(role="tool", text=learned(event, flow), said_at=event.timestamp)
    return None


def learned(event: ToolResultEvent, flow: Sequence[Event]) -> str:
    """Word what a tool found, with the question it was for: who asks for the one finds the other."""
    found = event.content.data.get("text", event.content.value)
    questions = (each.content.text for each in flow if isinstance(each, TextMessageEvent))
    question = next(questions, None)
    asked = f'you asked: "{question}", and ' if question else ""
    return f"{asked}the tool {event.content.tool} found: {found}"


def assembled(request: ContextRequest, earlier: Sequence[Recollection]) -> AssembledContext:
    """Choose what bears on a query: the best `limit`, and whether there was more."""
    best = rank(request.query, earlier, request.limit + 1)
    return AssembledContext(
        query=request.query, items=tuple(best[: request.limit]), is_truncated=len(best) > request.limit
    )
