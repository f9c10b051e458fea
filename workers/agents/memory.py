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
    MemoryItem,
    PatternLearnedEvent,
)
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event
from petiole.tasks import Agent, Context
from petiole.workers.retrieval import Retriever, configured_retriever, read_retrieval_settings
from petiole.workers.retrieval.candidates import collect_candidates, fact_owner
from petiole.workers.retrieval.memory_extraction import extract_facts, extract_recollection
from petiole.workers.retrieval.questions import normalize_question
from petiole.workers.state import team_state

agent = Agent("memory")

MAX_STREAMS_PER_CONSOLIDATION = 1_000
"""What is left over is cleaned up the next time."""

_MAX_PATTERN_LENGTH = 200

HABIT_OCCURRENCES, HABIT_WINDOW = 3, timedelta(days=7)
"""A question that comes so often within the window is a habit, which is published once in a window."""


@agent.on_start
def check_retrieval_at_start() -> None:
    """Refuse to start where PETIOLE_RETRIEVAL needs what is not installed."""
    read_retrieval_settings()


@agent.on("input.*", "tools.execution.completed", "llm.response.generated")
def remember(event: Event, context: Context) -> Iterator[Event]:
    """Keep what users, models and tools said, and what is to be learned from it; clean up where a stream has ended."""
    flow = context.flow() if isinstance(event, ToolResultEvent) else []
    if recollection := extract_recollection(event, flow):
        team_state(context.bus).memories.keep(event.stream_id, event.event_id, recollection)
    yield from exclude_published(
        [
            *detect_conflicts(event, flow, context),
            *detect_recurring_questions(event, context),
            *consolidate_ended_stream(event, context),
        ],
        context,
    )


@agent.on("orchestrator.context.requested")
def assemble(event: ContextRequestedEvent, context: Context) -> ContextAssembledEvent:
    """Tell what bears on a query; nothing is an answer too."""
    of_stream = team_state(context.bus).memories.read_by_key(event.stream_id)
    earlier = collect_candidates(
        of_stream, team_state(context.bus).facts.read(fact_owner(event)), context.flow(), event.stream_id
    )
    content = select_context(event.content, earlier, configured_retriever(team_state(context.bus).vectors))
    return event.caused(ContextAssembledEvent, content=content)


@agent.on("memory.consolidation.due")
def consolidate(event: ConsolidationDueEvent, context: Context) -> Iterator[Event]:
    """Clean up all streams in which something was kept since the last time."""
    streams = team_state(context.bus).memories.list_changed(MAX_STREAMS_PER_CONSOLIDATION)
    done = sum_consolidations(team_state(context.bus).memories.consolidate_changed(stream_id) for stream_id in streams)
    yield from exclude_published([build_consolidation_completed(event, done)], context)


def detect_conflicts(event: Event, flow: Sequence[Event], context: Context) -> Iterator[Event]:
    """Learn the facts of an event, and word what contradicts what was learned before."""
    owner = fact_owner(event)
    for fact in extract_facts(event, flow):
        if pair := team_state(context.bus).facts.learn(owner, fact):
            yield build_conflict(event, owner, *pair)


def detect_recurring_questions(event: Event, context: Context) -> Iterator[Event]:
    """Count a question, and word that it has become a habit."""
    question = normalize_question(event.content.text) if isinstance(event, TextMessageEvent) else None
    if not isinstance(event, TextMessageEvent) or question is None:
        return
    name = f"memory {fact_owner(event)} asks {question}"
    count = team_state(context.bus).event_counts.count(
        name,
        event.event_id,
        event.timestamp,
        threshold=HABIT_OCCURRENCES,
        window=HABIT_WINDOW,
        cooldown=HABIT_WINDOW,
    )
    if count:
        content = LearnedPattern(pattern=event.content.text[:_MAX_PATTERN_LENGTH], occurrences=count)
        yield event.caused(PatternLearnedEvent, event_id=derived_event_id(name, event.event_id), content=content)


def consolidate_ended_stream(event: Event, context: Context) -> Iterator[Event]:
    """Clean up a stream that has ended."""
    if isinstance(event, StreamEndedEvent):
        yield build_consolidation_completed(
            event, team_state(context.bus).memories.consolidate_changed(event.stream_id)
        )


def exclude_published(events: Sequence[Event], context: Context) -> Iterator[Event]:
    """Leave out what was said because of this event before: a replay much later says nothing again."""
    known = {each.event_id for each in context.flow()} if events else set()
    return (each for each in events if each.event_id not in known)


def select_context(request: ContextRequest, earlier: Sequence[MemoryItem], retriever: Retriever) -> AssembledContext:
    """Choose what bears on a query: the best `limit`, and whether there was more."""
    best = retriever.rank(request.query, earlier, request.limit + 1)
    return AssembledContext(
        query=request.query, items=tuple(best[: request.limit]), is_truncated=len(best) > request.limit
    )


def build_conflict(event: Event, owner: str, earlier: Fact, later: Fact) -> ConflictDetectedEvent:
    """Word that two values contradict each other; the same two are one event."""
    content = Conflict(subject=later.key, earlier=earlier.value, later=later.value)
    event_id = derived_event_id("conflict", owner, later.key, earlier.source, later.source)
    return event.caused(ConflictDetectedEvent, event_id=event_id, content=content)


def build_consolidation_completed(event: Event, consolidation: Consolidation) -> ConsolidationCompletedEvent:
    """Word what a clean-up did; once for what called for it."""
    return event.caused(
        ConsolidationCompletedEvent, event_id=derived_event_id("consolidated", event.event_id), content=consolidation
    )


def sum_consolidations(parts: Iterable[Consolidation]) -> Consolidation:
    """Add up what was done in several streams."""
    done = list(parts)
    return Consolidation(
        examined=sum(each.examined for each in done),
        merged=sum(each.merged for each in done),
        dropped=sum(each.dropped for each in done),
    )


def derived_event_id(*parts: str) -> str:
    """Name an event by what it says: whoever says it again says the same event."""
    return str(uuid5(NAMESPACE_URL, repr(parts)))
