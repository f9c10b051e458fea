"""What the tools say: that a call waits, began, how far it is, what it gave, or why it failed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from petiole.events.content import Content, Flag, Parameters, Text, Value
from petiole.events.event import Category, Event, UtcDatetime


class ToolExecution(Content):
    """One call of one tool."""

    call_id: Text
    tool: Text
    arguments: Parameters = Field(default_factory=dict)


class ToolStart(ToolExecution):
    """Which call of which tool begins."""


class ToolProgress(Content):
    """How far a call is, from 0 to 100."""

    call_id: Text
    tool: Text
    percent: Annotated[float, Field(strict=True, ge=0, le=100)]
    note: str = ""


class ToolResult(Content):
    """What a call gave. `data` holds the value under `value`; a failed call says why in `error`."""

    call_id: Text
    tool: Text
    ok: Flag = True
    data: Parameters = Field(default_factory=dict)
    error: str | None = None

    @model_validator(mode="after")
    def _check_failure_has_error(self) -> ToolResult:
        if self.ok == (self.error is not None):
            raise ValueError("a call that succeeded has no error, and one that failed has one")
        return self

    @property
    def value(self) -> Value:
        """What the tool returned; None where it failed or returned nothing."""
        return self.data.get("value")


class ToolFailure(Content):
    """Why a call failed, and whether another attempt could succeed."""

    call_id: Text
    tool: Text
    error_type: Text
    error: Text
    is_retryable: Flag = False


class ApprovalRequest(ToolExecution):
    """A call that somebody has to grant before it runs; `fingerprint` is the SHA-256 of its tool and arguments."""

    approval_id: Text
    fingerprint: Text
    expires_at: UtcDatetime


class ApprovalDecision(ApprovalRequest):
    """Who decided a call that was asked to be granted, and why."""

    by: Text
    reason: str = ""


class ToolEvent(Event):
    """Base of what the tools publish."""

    category: ClassVar[Category] = Category.PROCESSING


class ToolExecutionRequestedEvent(ToolEvent):
    """One call of a request for tools is to be run: each goes its own way from here."""

    event_type: Literal["tools.execution.requested"] = "tools.execution.requested"
    content: ToolExecution


class ToolStartedEvent(ToolEvent):
    """A tool's execution began."""

    event_type: Literal["tools.execution.started"] = "tools.execution.started"
    content: ToolStart


class ToolResultEvent(ToolEvent):
    """A tool's execution finished."""

    category: ClassVar[Category] = Category.INPUT
    event_type: Literal["tools.execution.completed"] = "tools.execution.completed"
    content: ToolResult


class ToolFailedEvent(ToolEvent):
    """A tool's execution failed."""

    event_type: Literal["tools.execution.failed"] = "tools.execution.failed"
    content: ToolFailure


class ToolProgressEvent(ToolEvent):
    """A long-running tool says how far it is."""

    event_type: Literal["tools.execution.progress"] = "tools.execution.progress"
    content: ToolProgress


class ApprovalRequestedEvent(ToolEvent):
    """A call waits for somebody to grant it."""

    event_type: Literal["tools.approval.requested"] = "tools.approval.requested"
    content: ApprovalRequest


class ApprovalGrantedEvent(ToolEvent):
    """Somebody granted a call: it is run."""

    event_type: Literal["tools.approval.granted"] = "tools.approval.granted"
    content: ApprovalDecision


class ApprovalDeniedEvent(ToolEvent):
    """Somebody denied a call: it has failed."""

    event_type: Literal["tools.approval.denied"] = "tools.approval.denied"
    content: ApprovalDecision


class ApprovalDeadlineReachedEvent(ToolEvent):
    """The time is over in which a call could be granted; most were decided before."""

    event_type: Literal["tools.approval.deadline_reached"] = "tools.approval.deadline_reached"
    content: ApprovalRequest


class ApprovalExpiredEvent(ToolEvent):
    """Nobody decided a call in time: it has failed."""

    event_type: Literal["tools.approval.expired"] = "tools.approval.expired"
    content: ApprovalRequest
