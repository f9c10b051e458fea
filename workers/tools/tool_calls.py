"""Calls: what is said of one call of a tool, from its request to its end.

A call is the same call wherever flow, call id, tool and arguments are the same. What is said of it has ids that follow
from these: however often it is asked for or run again, each thing is published once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from petiole.events.catalog.orchestrator import ToolCall
from petiole.events.catalog.tools import (
    ApprovalDeadlineReachedEvent,
    ApprovalRequestedEvent,
    AskedApproval,
    CallRequestedEvent,
    RequestedCall,
    ToolFailedEvent,
    ToolFailure,
    ToolProgress,
    ToolProgressEvent,
    ToolResult,
    ToolResultEvent,
    ToolStart,
    ToolStartedEvent,
)
from petiole.events.errors import PetioleError, Retryable, error_type_of
from petiole.events.event import Event
from petiole.workers.tools import Finding

PROGRESS_BURST = 10
PROGRESS_INTERVAL_S = 0.5


def requested(event: Event, call: ToolCall) -> CallRequestedEvent:
    """Word one call of a request as an event of its own."""
    content = RequestedCall(**_call(call))
    # No hop: it is the same request, cut in pieces, and rounds of tools are to end by their own count.
    return event.caused(
        CallRequestedEvent, event_id=said_of(event, content, "requested"), content=content, hops=event.hops
    )


def started(event: Event, call: RequestedCall) -> ToolStartedEvent:
    """Word that a call begins."""
    content = ToolStart(**_call(call))
    return event.caused(ToolStartedEvent, event_id=said_of(event, call, "started"), content=content)


def progressed(event: Event, call: RequestedCall, percent: float, note: str) -> ToolProgressEvent:
    """Word how far a call is."""
    content = ToolProgress(call_id=call.call_id, tool=call.tool, percent=percent, note=note)
    # Named by what it says, not by its place: how many reports come before it is a matter of time.
    return event.caused(ToolProgressEvent, event_id=said_of(event, call, f"at {percent}"), content=content)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with a result or a failure. As JSON it is kept, to be said again."""

    end: ToolResult | ToolFailure

    @classmethod
    def read(cls, kept: Mapping[str, object]) -> Outcome:
        """Read what `as_json` wrote."""
        kind = ToolResult if "completed" in kept else ToolFailure
        return cls(kind.model_validate(next(iter(kept.values()))))

    def as_json(self) -> dict[str, object]:
        """Write it as JSON."""
        name = "completed" if isinstance(self.end, ToolResult) else "failed"
        return {name: self.end.model_dump(mode="json")}

    def said(self, event: Event, call: RequestedCall) -> ToolResultEvent | ToolFailedEvent:
        """Word it. A call has one end, so both go by the same id."""
        event_id = said_of(event, call, "ended")
        if isinstance(self.end, ToolResult):
            return event.caused(ToolResultEvent, event_id=event_id, content=self.end)
        return event.caused(ToolFailedEvent, event_id=event_id, content=self.end)


def completed(call: RequestedCall, finding: Finding) -> Outcome:
    """Tell what a call found: its value, and the same as a sentence."""
    found = {"value": finding.value, "text": finding.text}
    return Outcome(ToolResult(call_id=call.call_id, tool=call.tool, data=found))


def failed(call: RequestedCall, error: PetioleError) -> Outcome:
    """Tell why a call failed."""
    failure = ToolFailure(
        call_id=call.call_id,
        tool=call.tool,
        error_type=error_type_of(error),
        error=str(error),
        is_retryable=isinstance(error, Retryable),
    )
    return Outcome(failure)


def approval_requested(event: Event, call: RequestedCall, expires_at: datetime) -> ApprovalRequestedEvent:
    """Ask for a call to be granted by then."""
    content = AskedApproval(
        **_call(call),
        approval_id=said_of(event, call, "approval"),
        fingerprint=fingerprint(call),
        expires_at=expires_at,
    )
    return event.caused(ApprovalRequestedEvent, event_id=said_of(event, call, "to be granted"), content=content)


def deadline_reached(asked: ApprovalRequestedEvent) -> ApprovalDeadlineReachedEvent:
    """Word that the time of an approval is over; it is published then."""
    event_id = said_of(asked, asked.content, "deadline")
    return asked.caused(ApprovalDeadlineReachedEvent, event_id=event_id, content=asked.content)


def fingerprint(call: RequestedCall) -> str:
    """Return the SHA-256 of a call's tool and arguments: whoever grants it grants these, and no others."""
    said = call.model_dump(mode="json", include={"tool", "arguments"})
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity(event: Event, call: RequestedCall) -> str:
    """Name a call: the same in every event of its flow that asks for it."""
    named = (event.stream_id, event.correlation_id, call.call_id, fingerprint(call))
    return str(uuid5(NAMESPACE_OID, repr(named)))


def said_of(event: Event, call: RequestedCall, what: str) -> str:
    """Name one thing that is said of a call."""
    return str(uuid5(NAMESPACE_OID, repr((identity(event, call), what))))


def _call(call: ToolCall | RequestedCall) -> dict[str, Any]:
    return {"call_id": call.call_id, "tool": call.tool, "arguments": call.arguments}


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
