"""Audit events of operators: who did what to which thing, and why."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Text
from petiole.events.event import MIN_PRIORITY, Category, Event
from petiole.events.ids import StreamId

OPERATORS_STREAM = "operators"


class OperatorAction(Content):
    """The operator and their role, the action, what it was done to, the reason given, and what came of it."""

    operator: Text
    role: Text
    action: Text
    target: Text
    reason: str = ""
    outcome: Literal["done", "refused"] = "done"
    error: str = ""


class OperatorActionEvent(Event):
    """An operator acted, or tried to, or had contents shown."""

    category: ClassVar[Category] = Category.SYSTEM
    event_type: Literal["operator.action.recorded"] = "operator.action.recorded"
    stream_id: StreamId = OPERATORS_STREAM
    content: OperatorAction
    priority: int = Field(default=MIN_PRIORITY, strict=True, ge=0, le=9)
