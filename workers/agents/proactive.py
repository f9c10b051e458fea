"""Proactive: hears everything, and speaks up where nobody asked: a suggestion to the user, a call for somebody's help.

    the same question again and again       proactive.pattern.detected, proactive.suggestion.ready
    a habit that the memory has noticed     proactive.suggestion.ready
    failure upon failure                    proactive.pattern.detected, proactive.intervention.needed

It is in nobody's way: its deliveries go last, in batches, are out of date after ten minutes, and give way where its
queue is full. It never hears itself: events that it led to have its name on their path; its `*` does not bring them,
and where they come by name, they are not looked at. What an operator has replayed is no news, and calls for nothing.
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
from petiole.events.event import LEAST_URGENT, Event
from petiole.tasks import Agent, Context
from petiole.workers.retrieval.candidates import owner_of
from petiole.workers.retrieval.questions import question_in
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state

agent = Agent("proactive", capacity=10_000, overflow="drop_oldest")

OUT_OF_DATE = timedelta(minutes=10)
_SHOWN_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Sign:
    """What an event is a sign of, for its user: a question that comes back, or a failure; `told` is how, for people.

    `occurrences` is set where somebody else has counted them.
    """

    pattern: str
    told: str
    is_failure: bool = False
    occurrences: int = 0


@agent.on("*", "memory.pattern.detected", priority=LEAST_URGENT, expires=OUT_OF_DATE, batch=32)
def watch(event: Event, context: Context) -> Iterator[Event]:
    """Look at an event: first at its type, which is all for nearly every event."""
    read = _READERS.get(event.event_type)
    if read is None or context.is_replay or agent.name in event.path:
        return
    if sign := read(event):
        yield from act_on(sign, event, context, WorkerSettings())


def act_on(sign: Sign, event: Event, context: Context, settings: WorkerSettings) -> Iterator[Event]:
    """Count a sign, and say what is to be said once it came often enough."""
    count = sign.occurrences or noticed(sign, event, context, settings)
    if not count:
        return
    window = timedelta(seconds=settings.proactive_window_s)
    if not sign.occurrences:
        pattern = DetectedPattern(pattern=sign.told, occurrences=count, window=window)
        yield event.caused(PatternDetectedEvent, content=pattern)
    if sign.is_failure:
        reason = f"{count} failures within {window}, the last of {sign.told}"
        content = Intervention(reason=reason, confidence=confidence(count))
        yield event.caused(InterventionNeededEvent, content=content)
    elif may_suggest(sign, event, context, settings):
        yield event.caused(ProactiveSuggestionEvent, content=suggestion(sign, count, cooldown_key(sign, event)))


def noticed(sign: Sign, event: Event, context: Context, settings: WorkerSettings) -> int:
    """Count a sign within the window; returns how many there were, where that is to be told, and else 0."""
    return team_state(context.bus).occurrences.notice(
        f"proactive {cooldown_key(sign, event)}",
        event.event_id,
        event.timestamp,
        enough=settings.proactive_min_occurrences,
        window=timedelta(seconds=settings.proactive_window_s),
        cooldown=timedelta(seconds=settings.proactive_cooldown_s),
    )


def may_suggest(sign: Sign, event: Event, context: Context, settings: WorkerSettings) -> bool:
    """Take the turn to suggest something to this user for this pattern; whoever noticed it, one has it per cooldown."""
    name = f"suggestion {cooldown_key(sign, event)}"
    once = timedelta(seconds=settings.proactive_cooldown_s)
    return (
        team_state(context.bus).occurrences.notice(
            name, event.event_id, event.timestamp, enough=1, window=once, cooldown=once
        )
        > 0
    )


def cooldown_key(sign: Sign, event: Event) -> str:
    """Name what is not suggested twice in a cooldown: a pattern of a user."""
    return f"{owner_of(event)} {sign.pattern}"


def confidence(count: int) -> float:
    """Tell how sure a pattern is that came so often: 0.75 after three times, and rising.

    Source: Laplace's rule of succession would be (n + 1) / (n + 2); this is stricter: once is a coin's toss.
    """
    return count / (count + 1)


def suggestion(sign: Sign, count: int, key: str) -> ProactiveSuggestion:
    """Word a suggestion, and why it is made."""
    return ProactiveSuggestion(
        text=f"You have asked {sign.told} {count} times. If my answer does not help, tell me what is missing.",
        reason=f"the same question came {count} times",
        confidence=confidence(count),
        cooldown_key=key,
    )


def read_message(event: Event) -> Sign | None:
    """Read a question; what is no question is no sign."""
    return _question(event.content.text) if isinstance(event, TextMessageEvent) else None


def read_habit(event: Event) -> Sign | None:
    """Read what the memory has counted already."""
    if not isinstance(event, PatternLearnedEvent):
        return None
    return _question(event.content.pattern, event.content.occurrences)


def read_failure(event: Event) -> Sign | None:
    """Read that something went wrong for a user: failures of all kinds count together."""
    match event:
        case ToolFailedEvent():
            what = f"the tool {event.content.tool}: {event.content.error}"
        case ResponseFailedEvent():
            what = f"the model {event.content.model}: {event.content.error}"
        case MessageFailedEvent():
            what = f"the channel {event.content.channel}: {event.content.error}"
        case _:
            return None
    return Sign("fails", what[:_SHOWN_LENGTH], is_failure=True)


def _question(text: str, occurrences: int = 0) -> Sign | None:
    question = question_in(text)
    return Sign(f"asks {question}", f'"{text[:_SHOWN_LENGTH]}"', occurrences=occurrences) if question else None


_READERS: Final[Mapping[str, Callable[[Event], Sign | None]]] = {
    "input.message.received": read_message,
    "memory.pattern.detected": read_habit,
    "tools.execution.failed": read_failure,
    "llm.response.failed": read_failure,
    "output.message.failed": read_failure,
}
