"""Tool calls: build the events of one tool call, from its request to its outcome. Pure functions.

Flow, call id, tool and arguments identify a call. The ids of its events are derived from them, so each event is
published once, even if the call is requested or run again.
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
    ApprovalRequest,
    ApprovalRequestedEvent,
    ToolExecution,
    ToolExecutionRequestedEvent,
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
from petiole.events.texts import error_text, safe_text
from petiole.workers.tools import ToolOutput

PROGRESS_BURST = 10
PROGRESS_INTERVAL_S = 0.5
MAX_NOTE_LENGTH = 500


def build_call_requested(event: Event, call: ToolCall) -> ToolExecutionRequestedEvent:
    """Build the event for one call of a tools request."""
    content = ToolExecution(**_call_fields(call))
    # It is part of the request and counts as no further hop; tool rounds have their own limit.
    return event.caused(
        ToolExecutionRequestedEvent,
        event_id=call_event_id(event, content, "requested"),
        content=content,
        hops=event.hops,
    )


def build_call_started(event: Event, call: ToolExecution) -> ToolStartedEvent:
    """Build the event for the start of a call."""
    content = ToolStart(**_call_fields(call))
    return event.caused(ToolStartedEvent, event_id=call_event_id(event, call, "started"), content=content)


def build_call_progress(event: Event, call: ToolExecution, percent: float, note: str) -> ToolProgressEvent:
    """Build the event for the progress of a call."""
    content = ToolProgress(call_id=call.call_id, tool=call.tool, percent=percent, note=safe_text(note, MAX_NOTE_LENGTH))
    # Identified by its percentage, because the number of reports before it depends on timing.
    return event.caused(ToolProgressEvent, event_id=call_event_id(event, call, f"at {percent}"), content=content)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The outcome of a call: a result or a failure. It is stored as JSON, to be published again."""

    content: ToolResult | ToolFailure

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> CallOutcome:
        """Read the output of `as_json`."""
        content_class = ToolResult if "completed" in document else ToolFailure
        return cls(content_class.model_validate(next(iter(document.values()))))

    def of_call(self, call: ToolExecution) -> CallOutcome:
        """Return the same outcome for another call of the tool."""
        return CallOutcome(self.content.copy_with_valid({"call_id": call.call_id}))

    def as_json(self) -> dict[str, object]:
        """Convert to JSON values."""
        name = "completed" if isinstance(self.content, ToolResult) else "failed"
        return {name: self.content.model_dump(mode="json")}

    def build_event(self, event: Event, call: ToolExecution) -> ToolResultEvent | ToolFailedEvent:
        """Build the event. Result and failure have the same event id, because a call has one outcome."""
        event_id = call_event_id(event, call, "ended")
        if isinstance(self.content, ToolResult):
            return event.caused(ToolResultEvent, event_id=event_id, content=self.content)
        return event.caused(ToolFailedEvent, event_id=event_id, content=self.content)


def completed_outcome(call: ToolExecution, output: ToolOutput) -> CallOutcome:
    """Build the outcome of a call that completed."""
    data = {"value": output.value, "text": output.text}
    return CallOutcome(ToolResult(call_id=call.call_id, tool=call.tool, data=data))


def failed_outcome(call: ToolExecution, error: PetioleError) -> CallOutcome:
    """Build the outcome of a call that failed."""
    failure = ToolFailure(
        call_id=call.call_id,
        tool=call.tool,
        error_type=error_type_of(error),
        error=error_text(error),
        is_retryable=isinstance(error, Retryable),
    )
    return CallOutcome(failure)


def build_approval_requested(event: Event, call: ToolExecution, expires_at: datetime) -> ApprovalRequestedEvent:
    """Build the request for an approval of a call, valid until `expires_at`."""
    content = ApprovalRequest(
        **_call_fields(call),
        approval_id=approval_id(event, call),
        fingerprint=call_fingerprint(call),
        expires_at=expires_at,
    )
    return event.caused(ApprovalRequestedEvent, event_id=call_event_id(event, call, "to be granted"), content=content)


def approval_id(event: Event, call: ToolExecution) -> str:
    """Derive the id of the approval of a call."""
    return call_event_id(event, call, "approval")


def build_approval_deadline_reached(request: ApprovalRequestedEvent) -> ApprovalDeadlineReachedEvent:
    """Build the event for the deadline of an approval, to be published at its `expires_at`."""
    event_id = call_event_id(request, request.content, "deadline")
    return request.caused(ApprovalDeadlineReachedEvent, event_id=event_id, content=request.content)


def call_fingerprint(call: ToolExecution) -> str:
    """Compute the SHA-256 of a call's tool and arguments, which an approval is limited to."""
    document = call.model_dump(mode="json", include={"tool", "arguments"})
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def call_key(event: Event, call: ToolExecution) -> str:
    """Derive the key of a call, the same for all events of its flow."""
    identity = (event.stream_id, event.correlation_id, call.call_id, call_fingerprint(call))
    return str(uuid5(NAMESPACE_OID, repr(identity)))


def effect_key(event: Event, call: ToolExecution) -> str:
    """Derive the key that all calls of a flow with this tool and these arguments have in common."""
    identity = (event.stream_id, event.correlation_id, "effect", call_fingerprint(call))
    return str(uuid5(NAMESPACE_OID, repr(identity)))


def call_event_id(event: Event, call: ToolExecution, step: str) -> str:
    """Derive the id of one event of a call."""
    return str(uuid5(NAMESPACE_OID, repr((call_key(event, call), step))))


def _call_fields(call: ToolCall | ToolExecution) -> dict[str, Any]:
    return {"call_id": call.call_id, "tool": call.tool, "arguments": call.arguments}


@dataclass(slots=True)
class ProgressLimiter:
    """Limits the progress reports of a call: rising percentages only, a burst, then one report per interval."""

    _last_percent: float = -1.0
    _tokens: float = PROGRESS_BURST
    _last_report_s: float | None = field(default=None)

    def allows(self, percent: float, at_s: float) -> bool:
        """Return whether to publish a report. `at_s` is the time of a monotonic clock."""
        elapsed_s = at_s - (self._last_report_s if self._last_report_s is not None else at_s)
        self._last_report_s = at_s
        self._tokens = min(PROGRESS_BURST, self._tokens + elapsed_s / PROGRESS_INTERVAL_S)
        if percent <= self._last_percent or self._tokens < 1:
            return False
        self._tokens -= 1
        self._last_percent = percent
        return True
