"""Events of the error channel."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from petiole.events.content import Content, Parameters, Text
from petiole.events.errors import Severity
from petiole.events.event import MAX_PRIORITY, Category, OpenEvent
from petiole.events.ids import SYSTEM_STREAM, StreamId
from petiole.events.topics import Topic


class ErrorContent(Content):
    """An error and its severity: a warning is published only, an error ends current work, critical stops the system."""

    error_type: Text
    message: Text
    severity: Severity = Severity.WARNING
    parameters: Parameters = Field(default_factory=dict)


class ErrorEvent(OpenEvent):
    """An error was reported. Only subscriptions whose pattern starts with `error` receive it."""

    category: ClassVar[Category] = Category.ERROR
    family: ClassVar[str] = "error"
    event_type: Topic = "error.reported"
    stream_id: StreamId = SYSTEM_STREAM
    content: ErrorContent
    priority: int = Field(default=MAX_PRIORITY, strict=True, ge=0, le=9)
