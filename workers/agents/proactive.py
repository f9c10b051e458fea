"""Proactive: detects patterns in all events and publishes suggestions for users and calls for intervention.

    the same question, repeatedly           proactive.pattern.detected, proactive.suggestion.ready
    a habit that the memory agent detected  proactive.suggestion.ready
    repeated failures                       proactive.pattern.detected, proactive.intervention.needed

Other agents take precedence. Its deliveries have the lowest priority and expire after ten minutes;
when its queue is full the oldest are dropped. It ignores events that its own events caused, because their path
contains its name, and events that an operator replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseFailedEvent
from petiole.events.catalog.memory import PatternLearnedEvent
from petiole.events.catalog.output import MessageFailedEvent
from petiole.events.catalog.proactive import (
    DetectedPattern,
    Intervention,
    InterventionNeededEvent,
    PatternDetectedEvent,
    ProactiveSuggestion,
    ProactiveSuggestionEvent,
)
from petiole.events.catalog.tools import ToolFailedEvent
from petiole.events.event import MIN_PRIORITY, Event
from petiole.tasks import Agent, Context
from petiole.workers.retrieval.candidates import fact_owner
from petiole.workers.retrieval.questions import normalize_question
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state

agent = Agent("proactive", capacity=10_000, overflow="drop_oldest")

EXPIRES_AFTER = timedelta(minutes=10)
_MAX_QUOTE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class PatternSignal:
    """A question or a failure of one user that is counted towards a pattern.

    `description` is text for people. `occurrences` is above 0 if another agent has already counted them.
    """

    pattern: str
    description: str
    is_failure: bool = False
    occurrences: int = 0


@agent.on(
    "*",
    "memory.pattern.detected",
    where={"content.format": {"exists": False}},  # no audio, no video
    priority=MIN_PRIORITY,
    expires=EXPIRES_AFTER,
)
def watch(event: Event, context: Context) -> Iterator[Event]:
    """Check an event for a signal. The event type alone excludes nearly every event."""
    read_signal = _SIGNAL_READERS.get(event.event_type)
    if read_signal is None or context.is_replay or agent.name in event.path:
        return
    if signal := read_signal(event):
        yield from handle_signal(signal, event, context, WorkerSettings())


def handle_signal(signal: PatternSignal, event: Event, context: Context, settings: WorkerSettings) -> Iterator[Event]:
    """Count a signal, and build the events for its pattern when the threshold is reached."""
    count = signal.occurrences or count_signal(signal, event, context, settings)
    if not count:
        return
    window = timedelta(seconds=settings.proactive_window_s)
    if not signal.occurrences:
        pattern = DetectedPattern(pattern=signal.description, occurrences=count, window=window)
        yield event.caused(PatternDetectedEvent, content=pattern)
    if signal.is_failure:
        reason = f"{count} failures within {window}, the last of {signal.description}"
        content = Intervention(reason=reason, confidence=pattern_confidence(count))
        yield event.caused(InterventionNeededEvent, content=content)
    elif claim_suggestion(signal, event, context, settings):
        yield event.caused(
            ProactiveSuggestionEvent, content=build_suggestion(signal, count, cooldown_key(signal, event))
        )


def count_signal(signal: PatternSignal, event: Event, context: Context, settings: WorkerSettings) -> int:
    """Count a signal in Redis.

    Returns the number of occurrences within the window when the pattern must be reported, else 0.
    """
    return team_state(context.bus).event_counts.count(
        f"proactive {cooldown_key(signal, event)}",
        event.event_id,
        event.timestamp,
        threshold=settings.proactive_min_occurrences,
        window=timedelta(seconds=settings.proactive_window_s),
        cooldown=timedelta(seconds=settings.proactive_cooldown_s),
    )


def claim_suggestion(signal: PatternSignal, event: Event, context: Context, settings: WorkerSettings) -> bool:
    """Claim the only suggestion of a cooldown for this user and pattern. Returns False if it was claimed before."""
    name = f"suggestion {cooldown_key(signal, event)}"
    cooldown = timedelta(seconds=settings.proactive_cooldown_s)
    return (
        team_state(context.bus).event_counts.count(
            name, event.event_id, event.timestamp, threshold=1, window=cooldown, cooldown=cooldown
        )
        > 0
    )


def cooldown_key(signal: PatternSignal, event: Event) -> str:
    """Return the key of a pattern of a user, for which at most one suggestion is made in a cooldown."""
    # Quoted, because the id of a user may contain spaces.
    return f"{fact_owner(event)!r} {signal.pattern}"


def pattern_confidence(count: int) -> float:
    """Compute the confidence in a pattern from its occurrences: 0.75 for three, rising towards 1.

    Source: stricter than Laplace's rule of succession, (n + 1) / (n + 2), so that one occurrence gives 0.5.
    """
    return count / (count + 1)


def build_suggestion(signal: PatternSignal, count: int, key: str) -> ProactiveSuggestion:
    """Build a suggestion with its reason."""
    return ProactiveSuggestion(
        text=f"You have asked {signal.description} {count} times. If my answer does not help, tell me what is missing.",
        reason=f"the same question came {count} times",
        confidence=pattern_confidence(count),
        cooldown_key=key,
    )


def signal_from_message(event: Event) -> PatternSignal | None:
    """Read a user's question; None for other messages."""
    return _question_signal(event.content.text) if isinstance(event, TextMessageEvent) else None


def signal_from_learned_pattern(event: Event) -> PatternSignal | None:
    """Read a question that the memory agent has already counted."""
    if not isinstance(event, PatternLearnedEvent):
        return None
    return _question_signal(event.content.pattern, event.content.occurrences)


def signal_from_failure(event: Event) -> PatternSignal | None:
    """Read a failure that a user met. Failures of tools, models and channels are one pattern."""
    match event:
        case ToolFailedEvent():
            description = f"the tool {event.content.tool}: {event.content.error}"
        case ResponseFailedEvent():
            description = f"the model {event.content.model}: {event.content.error}"
        case MessageFailedEvent():
            description = f"the channel {event.content.channel}: {event.content.error}"
        case _:
            return None
    return PatternSignal("fails", description[:_MAX_QUOTE_LENGTH], is_failure=True)


def _question_signal(text: str, occurrences: int = 0) -> PatternSignal | None:
    question = normalize_question(text)
    return (
        PatternSignal(f"asks {question}", f'"{text[:_MAX_QUOTE_LENGTH]}"', occurrences=occurrences)
        if question
        else None
    )


_SIGNAL_READERS: Final[Mapping[str, Callable[[Event], PatternSignal | None]]] = {
    "input.message.received": signal_from_message,
    "memory.pattern.detected": signal_from_learned_pattern,
    "tools.execution.failed": signal_from_failure,
    "llm.response.failed": signal_from_failure,
    "output.message.failed": signal_from_failure,
}
