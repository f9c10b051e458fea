"""Memory: stores conversations and facts, detects contradictions and habits, and answers context requests.

    episodic    messages of users, models and tools, per stream, in order of time
    semantic    facts that users stated about themselves and results of tools, per user, or per stream without a user

Both are stored in Redis and shared by all workers; workers/retrieval/ searches them. All handlers are safe to run
twice: stored items have the id of their event, and published events have ids derived from it.
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
from petiole.tasks.publishing.redaction import redact_event
from petiole.workers.retrieval import Retriever, configured_retriever, read_retrieval_settings
from petiole.workers.retrieval.candidates import collect_candidates, fact_owner
from petiole.workers.retrieval.memory_extraction import extract_facts, extract_recollection
from petiole.workers.retrieval.questions import normalize_question
from petiole.workers.state import team_state

agent = Agent("memory")

MAX_STREAMS_PER_CONSOLIDATION = 1_000
"""The next consolidation cleans up the remaining streams."""

_MAX_PATTERN_LENGTH = 200

HABIT_OCCURRENCES, HABIT_WINDOW = 3, timedelta(days=7)
"""A question with this many occurrences in the window is a habit. A habit is published once per window."""


@agent.on_start
def check_retrieval_at_start() -> None:
    """Refuse to start if PETIOLE_RETRIEVAL needs a package that is not installed."""
    read_retrieval_settings()


@agent.on("input.*", "tools.execution.completed", "llm.response.generated")
def remember(event: Event, context: Context) -> Iterator[Event]:
    """Store messages and facts, detect conflicts and habits, and clean up streams that have ended."""
    event = redact_event(context.bus, event)
    flow = context.flow() if isinstance(event, ToolResultEvent) else []
    if memory := extract_recollection(event, flow):
        team_state(context.bus).memories.keep(event.stream_id, event.event_id, memory)
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
    """Answer a context request. The context may be empty."""
    state = team_state(context.bus)
    stream_memories, facts = state.memories.read_by_key(event.stream_id), state.facts.read(fact_owner(event))
    earlier = collect_candidates(stream_memories, facts, context.flow(), event.stream_id)
    content = select_context(event.content, earlier, configured_retriever(state.vectors))
    return event.caused(ContextAssembledEvent, content=content)


@agent.on("memory.consolidation.due")
def consolidate(event: ConsolidationDueEvent, context: Context) -> Iterator[Event]:
    """Clean up all streams that have changed since the last consolidation."""
    memories = team_state(context.bus).memories
    streams = memories.list_changed(MAX_STREAMS_PER_CONSOLIDATION)
    total = sum_consolidations(memories.consolidate_changed(stream_id) for stream_id in streams)
    yield from exclude_published([build_consolidation_completed(event, total)], context)


def detect_conflicts(event: Event, flow: Sequence[Event], context: Context) -> Iterator[Event]:
    """Store the facts of an event, and report each contradiction to a stored fact."""
    owner = fact_owner(event)
    for fact in extract_facts(event, flow):
        if pair := team_state(context.bus).facts.learn(owner, fact):
            yield build_conflict(event, owner, *pair)


def detect_recurring_questions(event: Event, context: Context) -> Iterator[Event]:
    """Count a question, and report it when it becomes a habit."""
    question = normalize_question(event.content.text) if isinstance(event, TextMessageEvent) else None
    if not isinstance(event, TextMessageEvent) or question is None:
        return
    name = f"memory {fact_owner(event)!r} asks {question}"
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
    """Skip events that are already in the flow, so that a replay publishes nothing again."""
    published = {event.event_id for event in context.flow()} if events else set()
    return (event for event in events if event.event_id not in published)


def select_context(request: ContextRequest, earlier: Sequence[MemoryItem], retriever: Retriever) -> AssembledContext:
    """Select the `limit` memories that match the query best, and report whether there were more."""
    ranked = retriever.rank(request.query, earlier, request.limit + 1)
    return AssembledContext(
        query=request.query, items=tuple(ranked[: request.limit]), is_truncated=len(ranked) > request.limit
    )


def build_conflict(event: Event, owner: str, earlier: Fact, later: Fact) -> ConflictDetectedEvent:
    """Build the event for two contradicting values. Its id is derived from the pair, so it is published once."""
    content = Conflict(subject=later.key, earlier=earlier.value, later=later.value)
    event_id = derived_event_id("conflict", owner, later.key, earlier.source, later.source)
    return event.caused(ConflictDetectedEvent, event_id=event_id, content=content)


def build_consolidation_completed(event: Event, consolidation: Consolidation) -> ConsolidationCompletedEvent:
    """Build the event for a completed clean-up, once per causing event."""
    return event.caused(
        ConsolidationCompletedEvent, event_id=derived_event_id("consolidated", event.event_id), content=consolidation
    )


def sum_consolidations(parts: Iterable[Consolidation]) -> Consolidation:
    """Add up the counts of several streams."""
    results = list(parts)
    return Consolidation(
        examined=sum(result.examined for result in results),
        merged=sum(result.merged for result in results),
        dropped=sum(result.dropped for result in results),
    )


def derived_event_id(*parts: str) -> str:
    """Derive an event id from the event's facts, so that repeating it publishes the same event."""
    return str(uuid5(NAMESPACE_URL, repr(parts)))
