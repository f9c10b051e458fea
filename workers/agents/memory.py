"""Memory: stores conversations and facts, detects contradictions and habits, and answers context requests.

    episodic    messages of users, models and tools, per stream, in order of time
    semantic    facts that users stated about themselves, per user, or per stream without a user

Both are stored in Redis and shared by all workers; workers/retrieval/ searches them. All handlers are safe to run
twice: stored items have the id of their event, and published events have ids derived from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

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
    Forgotten,
    LearnedPattern,
    MemoriesForgottenEvent,
    MemoryItem,
    PatternLearnedEvent,
)
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.event import Event
from petiole.events.ids import derived_event_id
from petiole.tasks import Agent, Context
from petiole.tasks.publishing.redaction import redact_event
from petiole.workers.retrieval import Retriever, configured_retriever, warm_up_retrieval
from petiole.workers.retrieval.candidates import collect_candidates, fact_owner
from petiole.workers.retrieval.forget_requests import parse_forget_request
from petiole.workers.retrieval.memory_extraction import extract_facts, extract_recollection
from petiole.workers.retrieval.questions import normalize_question
from petiole.workers.retrieval.recent_turns import select_recent_turns, shorten_text
from petiole.workers.retrieval.statements import extract_statements
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import TeamState, team_state
from petiole.workers.state.forgetting import MemoryOwner, forget

agent = Agent("memory")

MAX_FACTS_IN_CONTEXT = 30
"""The most facts of a user that a model is given; the newest."""

MAX_STREAMS_PER_CONSOLIDATION = 1_000
"""The next consolidation cleans up the remaining streams."""

_MAX_PATTERN_LENGTH = 200

HABIT_OCCURRENCES, HABIT_WINDOW = 3, timedelta(days=7)
"""A question with this many occurrences in the window is a habit. A habit is published once per window."""


@agent.on_start
def load_retriever() -> None:
    """Load the retrieval model before the first message. Raises UsageError (missing_extra)."""
    warm_up_retrieval()


@agent.on(
    "input.*",
    "tools.execution.completed",
    "llm.response.generated",
    where={"content.format": {"exists": False}},  # no audio, no video
)
def remember(event: Event, context: Context) -> Iterator[Event]:
    """Store messages and facts, detect conflicts and habits, and clean up streams that have ended."""
    event = redact_event(context.bus, event)
    keep_recollection(event, context)
    yield from exclude_published(
        [
            *detect_conflicts(event, context),
            *detect_recurring_questions(event, context),
            *consolidate_ended_stream(event, context),
        ],
        context,
    )


@agent.on("orchestrator.context.requested")
def assemble(event: ContextRequestedEvent, context: Context) -> Iterator[Event]:
    """Answer a context request; first forget what its message asks to forget. The context may be empty."""
    state = team_state(context.bus)
    forgotten = forget_on_request(event, state)
    if forgotten is not None:
        yield event.caused(
            MemoriesForgottenEvent, event_id=derived_event_id("forgotten", event.event_id), content=forgotten
        )
    known = read_known(event, context)
    candidates = collect_candidates(known.memories, known.facts, event, event.content.query)
    spoken = [memory for memory in candidates if memory.role != "tool"]
    max_tokens = WorkerSettings().context_max_tokens
    selected = select_context(event.content, spoken, configured_retriever(state.vectors), max_tokens)
    recent = select_recent_turns(
        [memory for memory in known.memories.values() if memory.flow != event.correlation_id], max_tokens
    )
    content = selected.model_copy(
        update={
            "turns": recent.turns,
            "summary": recent.summary,
            "facts": list_current_facts(known.facts),
            "conflicts": tuple(find_contradictions(event, known.facts)),
            "forgotten": forgotten,
        }
    )
    yield event.caused(ContextAssembledEvent, content=content)


@agent.on("memory.consolidation.due")
def consolidate(event: ConsolidationDueEvent, context: Context) -> Iterator[Event]:
    """Clean up all streams that have changed since the last consolidation."""
    memories = team_state(context.bus).memories
    streams = memories.list_changed(MAX_STREAMS_PER_CONSOLIDATION)
    total = sum_consolidations(memories.consolidate_changed(stream_id) for stream_id in streams)
    yield from exclude_published([build_consolidation_completed(event, total)], context)


@dataclass(frozen=True, slots=True)
class KnownToMemory:
    """What is stored for a message: the memories of its stream by event id, and the values of each fact of its user."""

    memories: Mapping[str, MemoryItem]
    facts: Sequence[Sequence[Fact]]


def read_known(event: Event, context: Context) -> KnownToMemory:
    """Read what is stored, and what the last message of the stream led to, which may still be on its way here."""
    state = team_state(context.bus)
    memories = state.memories.read_by_key(event.stream_id)
    last = next(reversed(memories.values()), None)
    if last is not None and last.flow and last.flow != event.correlation_id and last.role != "assistant":
        events = context.bus.event_registry.read_known(context.bus.stores.history.read_flow_documents(last.flow))
        known = memories.keys() | state.memories.list_removed(event.stream_id)
        missing = {each.event_id: extract_recollection(each) for each in events if each.event_id not in known}
        memories |= {event_id: memory for event_id, memory in missing.items() if memory}
    return KnownToMemory(memories, state.facts.read(fact_owner(event)))


def keep_recollection(event: Event, context: Context) -> None:
    """Store the memory of an event, unless its user asked to forget it, or the message itself asks to forget."""
    memory = extract_recollection(event)
    if memory is None:
        return
    state = team_state(context.bus)
    flow = [event] if memory.role == "user" else context.flow()
    asks_to_forget = any(
        isinstance(each, TextMessageEvent) and parse_forget_request(each.content.text) for each in flow
    )
    # A request to forget repeats what is to be forgotten, and so may its answer.
    if not asks_to_forget and not state.facts.is_forgotten(fact_owner(event), event.timestamp):
        state.memories.keep(event.stream_id, event.event_id, memory)


def forget_on_request(event: ContextRequestedEvent, state: TeamState) -> Forgotten | None:
    """Forget what a message asks to forget; None if it asks for nothing of the kind."""
    request = parse_forget_request(event.content.query)
    if request is None:
        return None
    return forget(state, MemoryOwner(event.context.user_id, event.stream_id), request, event.timestamp)


def list_current_facts(facts: Sequence[Sequence[Fact]]) -> tuple[str, ...]:
    """List what holds now of what a user stated, the newest last; at most MAX_FACTS_IN_CONTEXT."""
    current = [values[-1] for values in facts if values[-1].subject == "user"]
    return tuple(f"{fact.attribute}: {fact.value}" for fact in current[-MAX_FACTS_IN_CONTEXT:])


def find_contradictions(event: ContextRequestedEvent, facts: Sequence[Sequence[Fact]]) -> Iterator[Conflict]:
    """Find the statements of a message that contradict the value before them, whether or not they are stored yet."""
    for values in facts:
        earlier = [value for value in values if value.source != event.causation_id]
        stated = [value for value in values if value.source == event.causation_id]
        later = stated[-1] if stated else _statement_about(values[-1], event)
        if earlier and later and later.contradicts(earlier[-1]) and not later.has_same_value(earlier[-1]):
            yield Conflict(subject=later.key, earlier=earlier[-1].value, later=later.value)


def _statement_about(fact: Fact, event: ContextRequestedEvent) -> Fact | None:
    for statement in extract_statements(event.content.query):
        stated = fact.model_copy(
            update={
                "attribute": statement.attribute,
                "value": statement.value,
                "is_claim": statement.is_claim,
                "is_correction": statement.is_correction,
            }
        )
        if stated.key == fact.key:
            return stated
    return None


def detect_conflicts(event: Event, context: Context) -> Iterator[Event]:
    """Store the facts of an event, and report each contradiction to a stored fact."""
    owner, facts = fact_owner(event), team_state(context.bus).facts
    known = [values[-1] for values in facts.read(owner)] if isinstance(event, TextMessageEvent) else []
    for fact in extract_facts(event, known):
        if pair := facts.learn(owner, fact):
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


def select_context(
    request: ContextRequest, earlier: Sequence[MemoryItem], retriever: Retriever, max_tokens: int
) -> AssembledContext:
    """Select the `limit` memories that match the query best, and report whether there were more.

    Each is shortened to its share of the tokens; one character is at most one token.
    """
    ranked = retriever.rank(request.query, earlier, request.limit + 1)
    best, length = ranked[: request.limit], max_tokens // max(1, request.limit)
    items = tuple(memory.model_copy(update={"text": shorten_text(memory.text, length)}) for memory in best if length)
    return AssembledContext(query=request.query, items=items, is_truncated=len(ranked) > request.limit)


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
