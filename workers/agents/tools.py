"""Tools: runs what the orchestrator asks for, and tells how each call begins, goes on and ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid5

from events.catalog.memory import Recollection
from events.catalog.orchestrator import ToolCall, ToolsRequestedEvent
from events.catalog.tools import (
    ToolFailedEvent,
    ToolFailure,
    ToolProgress,
    ToolProgressEvent,
    ToolResult,
    ToolResultEvent,
    ToolStart,
    ToolStartedEvent,
)
from events.errors import PetioleError, Retryable
from events.event import Event
from tasks import Agent, Context, publish
from workers.intents import classify
from workers.recall.earlier import said_earlier
from workers.recall.words import rank, words_of
from workers.tools import Finding, ToolContext, installed_tools

agent = Agent("tools")

PROGRESS_BURST = 10
PROGRESS_INTERVAL_S = 0.5


@agent.on("orchestrator.tools.requested")
def run(event: ToolsRequestedEvent, context: Context) -> Iterator[Event]:
    """Run the calls one after the other. One that fails says so and keeps no other from running."""
    for call in event.content.calls:
        publish(started(event, call), now=True)
        yield run_call(event, call, ToolContext(event.stream_id, _reporter(event, call), _recaller(context)))


def run_call(event: ToolsRequestedEvent, call: ToolCall, tool_context: ToolContext) -> Event:
    """Run one call and word what became of it."""
    try:
        finding = installed_tools().call(call.tool, call.arguments, tool_context)
    except PetioleError as error:
        return failed(event, call, error)
    return completed(event, call, finding)


def started(event: Event, call: ToolCall) -> ToolStartedEvent:
    """Word that a call begins."""
    content = ToolStart(call_id=call.call_id, tool=call.tool, arguments=call.arguments)
    return event.caused(ToolStartedEvent, event_id=said_of(event, call, "started"), content=content)


def progressed(event: Event, call: ToolCall, percent: float, note: str) -> ToolProgressEvent:
    """Word how far a call is."""
    content = ToolProgress(call_id=call.call_id, tool=call.tool, percent=percent, note=note)
    return event.caused(ToolProgressEvent, event_id=said_of(event, call, f"at {percent}"), content=content)


def completed(event: Event, call: ToolCall, finding: Finding) -> ToolResultEvent:
    """Word what a call found: its value, and the same as a sentence."""
    content = ToolResult(call_id=call.call_id, tool=call.tool, data={"value": finding.value, "text": finding.text})
    return event.caused(ToolResultEvent, event_id=said_of(event, call, "ended"), content=content)


def failed(event: Event, call: ToolCall, error: PetioleError) -> ToolFailedEvent:
    """Word why a call failed."""
    content = ToolFailure(
        call_id=call.call_id,
        tool=call.tool,
        error_type=type(error).__name__,
        error=str(error),
        is_retryable=isinstance(error, Retryable),
    )
    return event.caused(ToolFailedEvent, event_id=said_of(event, call, "ended"), content=content)


def said_of(event: Event, call: ToolCall, what: str) -> str:
    """Name one thing said of a call.

    Named by what it says, not by its place among what the delivery says: how many reports of progress come
    before it is a matter of time, and differs when the delivery is run again.
    """
    return str(uuid5(UUID(event.event_id), repr((call.call_id, what))))


@dataclass(slots=True)
class ProgressGate:
    """Lets reports of progress through that rise: a burst of some, then one for each interval."""

    _last_percent: float = -1.0
    _tokens: float = PROGRESS_BURST
    _asked_at_s: float | None = field(default=None)

    def admits(self, percent: float, at_s: float) -> bool:
        """Tell whether a report made at that time may go out; `at_s` is of a clock that never goes back."""
        waited_s = at_s - (self._asked_at_s if self._asked_at_s is not None else at_s)
        self._asked_at_s = at_s
        self._tokens = min(PROGRESS_BURST, self._tokens + waited_s / PROGRESS_INTERVAL_S)
        if percent <= self._last_percent or self._tokens < 1:
            return False
        self._tokens -= 1
        self._last_percent = percent
        return True


def recollect(query: str, limit: int, earlier: Sequence[Recollection]) -> list[Recollection]:
    """Find what was said by the query's words, or the latest where it has none; no questions about memory."""
    told = list(_told(earlier))
    return rank(query, told, limit) if words_of(query) else told[::-1][:limit]


def _told(earlier: Sequence[Recollection]) -> Iterator[Recollection]:
    """Leave out questions about memory, and the answers after them, which quote what is there already."""
    was_asked = False
    for each in earlier:
        if each.role == "user":
            was_asked = classify(each.text).intent == "recall"
        if not was_asked:
            yield each


def _reporter(event: Event, call: ToolCall) -> Callable[[float, str], None]:
    gate = ProgressGate()

    def report(percent: float, note: str) -> None:
        progress = progressed(event, call, percent, note)
        if gate.admits(percent, time.monotonic()):
            publish(progress, now=True)

    return report


def _recaller(context: Context) -> Callable[[str, int], Sequence[Recollection]]:
    def recall(query: str, limit: int) -> Sequence[Recollection]:
        stream_id = context.event.stream_id
        return recollect(query, limit, said_earlier(context.memories.of(stream_id), context.flow()))

    return recall
