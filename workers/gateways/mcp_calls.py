"""A call of a tool by a client of MCP, as the flow that runs it: what came of it, and what it waits for.

A call is read from the history, so it does not depend on the server that took it. The id of the event that began its
flow names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from mcp import types
from pydantic_core import to_json

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent, ResponseSuccessEvent
from petiole.events.catalog.tools import ApprovalRequest, ToolExecutionRequestedEvent
from petiole.events.errors import StreamTimeout, ToolFailed
from petiole.events.event import Event
from petiole.events.responses import Response, parse_response
from petiole.events.texts import error_text
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.flows import (
    SILENCE_TIMEOUT_S,
    ApprovalEnded,
    ApprovalNeeded,
    FlowEnded,
    FlowItem,
    FlowPosition,
    FlowStep,
    FlowTranslator,
    PartsAdded,
    TextEnded,
    ToolEnded,
    follow_flow,
    read_first_event,
)

SOURCE: Final = "mcp"
"""The source of the events that begin a call."""

CallEvent: TypeAlias = TextMessageEvent | ToolExecutionRequestedEvent | RequestEvent


@dataclass(slots=True)
class FlowCall:
    """What the items of a flow have led to so far.

    Attributes:
        result: None until the call has ended; also None if it was cancelled.
        pending: The approvals that it waits for, by id.
    """

    bus: BusRuntime
    event: CallEvent
    result: types.CallToolResult | None = None
    is_cancelled: bool = False
    pending: dict[str, ApprovalRequest] = field(default_factory=dict)
    updated_at: datetime = field(init=False)
    _position: FlowPosition = field(init=False)
    _translator: FlowTranslator = field(default_factory=FlowTranslator)
    _texts: list[str] = field(default_factory=list)
    _parts: Sequence[dict[str, object]] = ()

    def __post_init__(self) -> None:
        self.updated_at = self.event.timestamp
        self._position = FlowPosition(self.bus, self.event.stream_id, self.id)

    @property
    def id(self) -> str:
        """The id of the call, and of its flow."""
        return self.event.event_id

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self.is_cancelled or self.result is not None

    def read(self) -> None:
        """Take what is recorded of the flow."""
        for item in self._position.read():
            self.advance(item)
        if isinstance(self.event, RequestEvent) and self._has_expired():
            self._end_without_reply(self.event)

    async def follow(self) -> None:
        """Wait until the call has ended. Raises: StreamTimeout, BrokerUnavailable, StateStoreUnavailable."""
        if self.is_over:
            return
        is_request = isinstance(self.event, RequestEvent)
        timeout_s = self._remaining_s() if is_request else SILENCE_TIMEOUT_S
        try:
            async with aclosing(follow_flow(self._position, timeout_s=timeout_s)) as items:
                async for item in items:
                    self.advance(item)
                    if self.is_over:
                        return
        except StreamTimeout:
            if not isinstance(self.event, RequestEvent):
                raise
            self._end_without_reply(self.event)

    def advance(self, item: FlowItem) -> None:
        """Take an item of the flow."""
        if self.is_over:
            return
        if isinstance(item.value, Event):
            self.updated_at = item.value.timestamp
        if isinstance(self.event, RequestEvent) and isinstance(item.value, ResponseSuccessEvent | ResponseFailureEvent):
            self._take_reply(self.event, item.value)
        for step in self._translator.translate(item.value):
            self._apply(step)

    def _apply(self, step: FlowStep) -> None:
        match step:
            case ApprovalNeeded():
                self.pending[step.approval.approval_id] = step.approval
            case ApprovalEnded():
                self.pending.pop(step.approval_id, None)
            case TextEnded():
                self._texts.append(step.text)
            case PartsAdded():
                self._parts = step.parts
            case ToolEnded() if isinstance(self.event, ToolExecutionRequestedEvent):
                if step.call_id == self.event.content.call_id:
                    self.result = build_result(step.text, is_error=not step.is_ok)
            case FlowEnded():
                self.is_cancelled = step.reason == "cancelled"
                self.result = None if self.is_cancelled else build_result("\n".join(self._texts), self._parts)

    def _take_reply(self, request: RequestEvent, reply: Event) -> None:
        response: Response[object] = parse_response(reply)
        if response.request_id != request.content.request_id:
            return
        if response.ok:
            self.result = build_result(to_json(response.value).decode())
        else:
            failure = ToolFailed(request.content.responder, f"{response.error_type}: {response.error}")
            self.result = build_result(error_text(failure), is_error=True)

    def _end_without_reply(self, request: RequestEvent) -> None:
        if not self.is_over:
            failure = ToolFailed(request.content.responder, "it did not reply before the deadline of the request")
            self.result = build_result(error_text(failure), is_error=True)

    def _has_expired(self) -> bool:
        return self.event.expires_at is not None and self.event.expires_at <= self.bus.now()

    def _remaining_s(self) -> float:
        expires_at = self.event.expires_at
        return (expires_at - self.bus.now()).total_seconds() if expires_at is not None else SILENCE_TIMEOUT_S


def find_call(bus: BusRuntime, call_id: str) -> FlowCall | None:
    """Read a call from the history; None if there is none of this id."""
    with bus.state_store_access(f"reading the call {call_id!r}"):
        first = read_first_event(bus, call_id)
        if not isinstance(first, CallEvent) or first.context.source != SOURCE:
            return None
        call = FlowCall(bus, first)
        call.read()
    return call


def build_result(text: str, parts: Sequence[dict[str, object]] = (), *, is_error: bool = False) -> types.CallToolResult:
    """Build the result of a call: its text, then a link for each part that is a file, and JSON for each other one."""
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
    for part in parts:
        if url := str(part.get("url") or ""):
            name, media_type = str(part.get("filename") or "part"), str(part.get("media_type") or "") or None
            content.append(types.ResourceLink(name=name, uri=url, mime_type=media_type))
        else:
            content.append(types.TextContent(type="text", text=to_json(part.get("data", part)).decode()))
    return types.CallToolResult(content=content, is_error=is_error)
