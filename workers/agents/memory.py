"""Memory: keeps what was said, learns from it, notices what comes back or contradicts, and tells what bears on a query.

    episodic    what users, models and tools said, in each stream, by time
    semantic    facts that users stated of themselves and what tools found, by user; by stream where nobody is named

Both stand in Redis, for all workers; workers/retrieval/ finds in them. All of it is safe to run twice: what is kept has
the id of its event, and what is said has an id that follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from uuid import NAMESPACE_URL, uuid5

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import (
    AssembledContext,
    Conflict,
    ConflictDetectedEvent,
    Consolidation,
    ConsolidationCompletedEvent,
    ConsolidationDueEvent,
    ContextAssembledEvent,
    Fact,
    LearnedPattern,
    PatternLearnedEvent,
    Recollection,
)
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event
from petiole.tasks import Agent, Context
from petiole.workers.retrieval import Recall, check_recall, chosen_recall
from petiole.workers.retrieval.candidates import owner_of, remembered
from petiole.workers.retrieval.memory_extraction import facts_of, recollection_of
from petiole.workers.retrieval.questions import question_in
from petiole.workers.state import team_state

agent = Agent("memory")

STREAMS_CLEANED_AT_ONCE = 1_000
"""What is left over is cleaned up the next time."""

_LONGEST_PATTERN = 200

HABIT_OCCURRENCES, HABIT_WINDOW = 3, timedelta(days=7)
"""A question that comes so often within the window is a habit, which is published once in a window."""


@agent.on_start
def refuse_what_cannot_recall() -> None:
    """Refuse to start where PETIOLE_RETRIEVAL needs what is not installed."""
    check_recall()


@agent.on("input.*", "tools.execution.completed", "llm.response.generated")
def remember(event: Event, context: Context) -> Iterator[Event]:
    """Keep what users, models and tools said, and what is to be learned from it; clean up where a stream has ended."""
    flow = context.flow() if isinstance(event, ToolResultEvent) else []
    if recollection := recollection_of(event, flow):
        team_state(context.bus).memories.keep(event.stream_id, event.event_id, recollection)
    yield from unsaid([*conflicts(event, flow, context), *habits(event, context), *clean_up(event, context)], context)


@agent.on("orchestrator.context.requested")
def assemble(event: ContextRequestedEvent, context: Context) -> ContextAssembledEvent:
    """Tell what bears on a query; nothing is an answer too."""
    of_stream = team_state(context.bus).memories.by_key(event.stream_id)
    earlier = remembered(of_stream, team_state(context.bus).facts.of(owner_of(event)), context.flow(), event.stream_id)
    content = assembled(event.content, earlier, chosen_recall(team_state(context.bus).vectors))
    return event.caused(ContextAssembledEvent, content=content)


@agent.on("memory.consolidation.due")
def consolidate(event: ConsolidationDueEvent, context: Context) -> Iterator[Event]:
    """Clean up all streams in which something was kept since the last time."""
    streams = team_state(context.bus).memories.touched(STREAMS_CLEANED_AT_ONCE)
    done = total(team_state(context.bus).memories.consolidate_touched(stream_id) for stream_id in streams)
    yield from unsaid([consolidated(event, done)], context)


def conflicts(event: Event, flow: Sequence[Event], context: Context) -> Iterator[Event]:
    """Learn the facts of an event, and word what contradicts what was learned before."""
    owner = owner_of(event)
    for fact in facts_of(event, flow):
        if pair := team_state(context.bus).facts.learn(owner, fact):
            yield conflict(event, owner, *pair)


def habits(event: Event, context: Context) -> Iterator[Event]:
    """Count a question, and word that it has become a habit."""
    question = question_in(event.content.text) if isinstance(event, TextMessageEvent) else None
    if not isinstance(event, TextMessageEvent) or question is None:
        return
    name = f"memory {owner_of(event)} asks {question}"
    count = team_state(context.bus).occurrences.notice(
        name,
        event.event_id,
        event.timestamp,
        enough=HABIT_OCCURRENCES,
        window=HABIT_WINDOW,
        cooldown=HABIT_WINDOW,
    )
    if count:
        content = LearnedPattern(pattern=event.content.text[:_LONGEST_PATTERN], occurrences=count)
        yield event.caused(PatternLearnedEvent, event_id=named(name, event.event_id), content=content)


def clean_up(event: Event, context: Context) -> Iterator[Event]:
    """Clean up a stream that has ended."""
    if isinstance(event, StreamEndedEvent):
        yield consolidated(event, team_state(context.bus).memories.consolidate_touched(event.stream_id))


def unsaid(said: Sequence[Event], context: Context) -> Iterator[Event]:
    """Leave out what was said because of this event before: a replay much later says nothing again."""
    known = {each.event_id for each in context.flow()} if said else set()
    return (each for each in said if each.event_id not in known)


def assembled(request: ContextRequest, earlier: Sequence[Recollection], recall: Recall) -> AssembledContext:
    """Choose what bears on a query: the best `limit`, and whether there was more."""
    best = recall.rank(request.query, earlier, request.limit + 1)
    return AssembledContext(
        query=request.query, items=tuple(best[: request.limit]), is_truncated=len(best) > request.limit
    )


def conflict(event: Event, owner: str, earlier: Fact, later: Fact) -> ConflictDetectedEvent:
    """Word that two values contradict each other; the same two are one event."""
    content = Conflict(subject=later.of, earlier=earlier.value, later=later.value)
    event_id = named("conflict", owner, later.of, earlier.source, later.source)
    return event.caused(ConflictDetectedEvent, event_id=event_id, content=content)


def consolidated(event: Event, done: Consolidation) -> ConsolidationCompletedEvent:
    """Word what a clean-up did; once for what called for it."""
    return event.caused(ConsolidationCompletedEvent, event_id=named("consolidated", event.event_id), content=done)


def total(parts: Iterable[Consolidation]) -> Consolidation:
    """Add up what was done in several streams."""
    done = list(parts)
    return Consolidation(
        examined=sum(each.examined for each in done),
        merged=sum(each.merged for each in done),
        dropped=sum(each.dropped for each in done),
    )


def named(*parts: str) -> str:
    """Name an event by what it says: whoever says it again says the same event."""
    return str(uuid5(NAMESPACE_URL, repr(parts)))
