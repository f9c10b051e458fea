"""Events of tool calls: request, approval, start, progress, result and failure."""

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
    """A tool call that started."""


class ToolProgress(Content):
    """The progress of a tool call in percent."""

    call_id: Text
    tool: Text
    percent: Annotated[float, Field(strict=True, ge=0, le=100)]
    note: str = ""


class ToolResult(Content):
    """The result of a tool call: the value in `data["value"]`, or the error of a failed call in `error`."""

    call_id: Text
    tool: Text
    ok: Flag = True
    data: Parameters = Field(default_factory=dict)
    error: str | None = None

    @model_validator(mode="after")
    def _check_failure_has_error(self) -> ToolResult:
        if self.ok == (self.error is not None):
            raise ValueError("needs an error if ok is false, and none if ok is true; correct one of them")
        return self

    @property
    def value(self) -> Value:
        """The value that the tool returned; None if it failed or returned nothing."""
        return self.data.get("value")


class ToolFailure(Content):
    """Why a tool call failed, and whether a retry may succeed."""

    call_id: Text
    tool: Text
    error_type: Text
    error: Text
    is_retryable: Flag = False


class ApprovalRequest(ToolExecution):
    """A tool call that needs approval. `fingerprint` is the SHA-256 of its tool and arguments."""

    approval_id: Text
    fingerprint: Text
    expires_at: UtcDatetime


class ApprovalDecision(ApprovalRequest):
    """Who decided on the approval of a tool call, and why."""

    by: Text
    reason: str = ""


class ToolEvent(Event):
    """Base class of the events of tool calls."""

    category: ClassVar[Category] = Category.PROCESSING


class ToolExecutionRequestedEvent(ToolEvent):
    """A single tool call was requested."""

    event_type: Literal["tools.execution.requested"] = "tools.execution.requested"
    content: ToolExecution


class ToolStartedEvent(ToolEvent):
    """A tool call started."""

    event_type: Literal["tools.execution.started"] = "tools.execution.started"
    content: ToolStart


class ToolResultEvent(ToolEvent):
    """A tool call finished."""

    category: ClassVar[Category] = Category.INPUT
    event_type: Literal["tools.execution.completed"] = "tools.execution.completed"
    content: ToolResult


class ToolFailedEvent(ToolEvent):
    """A tool call failed."""

    event_type: Literal["tools.execution.failed"] = "tools.execution.failed"
    content: ToolFailure


class ToolProgressEvent(ToolEvent):
    """A long-running tool call made progress."""

    event_type: Literal["tools.execution.progress"] = "tools.execution.progress"
    content: ToolProgress


class ApprovalRequestedEvent(ToolEvent):
    """A tool call waits for approval."""

    event_type: Literal["tools.approval.requested"] = "tools.approval.requested"
    content: ApprovalRequest


class ApprovalGrantedEvent(ToolEvent):
    """A tool call was approved and is run."""

    event_type: Literal["tools.approval.granted"] = "tools.approval.granted"
    content: ApprovalDecision


class ApprovalDeniedEvent(ToolEvent):
    """A tool call was denied and has failed."""

    event_type: Literal["tools.approval.denied"] = "tools.approval.denied"
    content: ApprovalDecision


class ApprovalDeadlineReachedEvent(ToolEvent):
    """The deadline of an approval passed. Most approvals were decided before."""

    event_type: Literal["tools.approval.deadline_reached"] = "tools.approval.deadline_reached"
    content: ApprovalRequest


class ApprovalExpiredEvent(ToolEvent):
    """A tool call was not approved in time and has failed."""

    event_type: Literal["tools.approval.expired"] = "tools.approval.expired"
    content: ApprovalRequest
