"""A run of AG-UI: the protocol's events for the steps of a flow, and where a client is in them.

The state of a run is {"petiole": {"phase", "intent", "tools": {call_id: {"tool", "status", "percent"}}}}: a snapshot at
the start, then JSON Patch. A text that was retracted is removed from the client's messages by a snapshot of them.

Source: AG-UI 1.0, events and their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from ag_ui.core import (
    ActivityMessage,
    ActivitySnapshotEvent,
    AssistantMessage,
    BaseEvent,
    FunctionCall,
    Interrupt,
    Message,
    MessagesSnapshotEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
)

from petiole.events.catalog.tools import ApprovalRequest
from petiole.tasks.stores.history import HISTORY_START
from petiole.tasks.stores.response_streams import Chunk
from petiole.workers.gateways.flows import (
    ApprovalEnded,
    ApprovalNeeded,
    FlowEnded,
    FlowItem,
    FlowStep,
    FlowTranslator,
    PartsAdded,
    PhaseChanged,
    TextAdded,
    TextEnded,
    TextRetracted,
    TextStarted,
    ToolCalled,
    ToolEnded,
    ToolProgressed,
)

PARTS_ACTIVITY: Final = "petiole.parts"
"""The type of the activity message that holds the files and data of an answer, as {"parts": [...]}."""

_STATE: Final = "/petiole"
_CURSOR: Final = re.compile(r"(\d{1,20}-\d{1,20})\.(\d{1,6}):(\d{1,18})\.(\d{1,6})")

APPROVAL_SCHEMA: Final = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
"""The payload with which a client answers an interrupt."""


@dataclass(frozen=True, slots=True)
class RunCursor:
    """What a client has of a run. Its text is the id of the last event that the client has.

    Attributes:
        entry_id: The client has all events for the entries of the history up to this one.
        entry_events: The number of events that it has for the next entry.
        chunk: It has all events for the chunks up to this one.
        chunk_events: The number of events that it has for the next chunk.
    """

    entry_id: str = HISTORY_START
    entry_events: int = 0
    chunk: int = 0
    chunk_events: int = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the id of an event; None if it is none."""
        found = _CURSOR.fullmatch(text)
        return cls(found[1], int(found[2]), int(found[3]), int(found[4])) if found else None

    def __str__(self) -> str:
        return f"{self.entry_id}.{self.entry_events}:{self.chunk}.{self.chunk_events}"

    def count_had(self, item: FlowItem) -> int | None:
        """Return how many events of an item the client has; None for all."""
        if isinstance(item.value, Chunk):
            return None if item.value.number <= self.chunk else self.chunk_events
        return None if _order(item.entry_id) <= _order(self.entry_id) else self.entry_events

    def with_events(self, item: FlowItem, count: int) -> RunCursor:
        """Return the cursor of a client that has so many events of the next item."""
        if isinstance(item.value, Chunk):
            return replace(self, chunk_events=count)
        return replace(self, entry_events=count)

    def after(self, item: FlowItem) -> RunCursor:
        """Return the cursor of a client that has all events of an item."""
        if isinstance(item.value, Chunk):
            return replace(self, chunk=item.value.number, chunk_events=0)
        return replace(self, entry_id=item.entry_id, entry_events=0)


@dataclass(slots=True)
class AgUiRun:
    """The events of one run, each with the cursor of a client that has it.

    Args:
        thread_id, run_id: Those of the client.
        cursor: What the client has.
        state: The state that the client has, beside ours.
        messages: The messages before this run.
        starts_after: The entry of the approval that this run resumes; what came up to it was told in an earlier run.
    """

    thread_id: str
    run_id: str
    cursor: RunCursor = RunCursor()
    state: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    starts_after: str = HISTORY_START
    is_over: bool = False
    _translator: FlowTranslator = field(default_factory=FlowTranslator)
    _is_earlier: bool = field(init=False)
    _progress: dict[str, Any] = field(default_factory=lambda: {"phase": "received", "intent": "", "tools": {}})

    def __post_init__(self) -> None:
        self._is_earlier = self.starts_after != HISTORY_START

    def start(self) -> Iterator[tuple[RunCursor, BaseEvent]]:
        """Yield the events before the first item that the client does not have; none yet if the run resumes another."""
        if self._is_earlier or self.cursor.entry_id != HISTORY_START:
            return
        for count, event in list(enumerate(self._opening(), 1))[self.cursor.entry_events :]:
            yield replace(self.cursor, entry_events=count), event
        self.cursor = RunCursor()

    def advance(self, item: FlowItem) -> Iterator[tuple[RunCursor, BaseEvent]]:
        """Yield the events of an item that the client does not have."""
        events = list(self._encode(item))
        if self._is_earlier:
            events = []
            if item.entry_id and _order(item.entry_id) >= _order(self.starts_after):
                # The run begins here, with what the earlier one has led to.
                self._is_earlier = False
                events = self._opening()
        had = self.cursor.count_had(item)
        if had is None:
            return
        for count, event in list(enumerate(events, 1))[had:]:
            yield self.cursor.with_events(item, count), event
        self.cursor = self.cursor.after(item)

    def _opening(self) -> list[BaseEvent]:
        return [
            RunStartedEvent(thread_id=self.thread_id, run_id=self.run_id),
            StateSnapshotEvent(snapshot={**self.state, "petiole": deepcopy(self._progress)}),
            MessagesSnapshotEvent(messages=list(self.messages)),
        ]

    def _encode(self, item: FlowItem) -> Iterator[BaseEvent]:
        for step in self._translator.translate(item.value):
            if not self.is_over:
                yield from self._encode_step(step)

    def _encode_step(self, step: FlowStep) -> Iterator[BaseEvent]:
        match step:
            case TextStarted() | TextAdded() | TextEnded() | TextRetracted():
                yield from self._encode_text(step)
            case ToolCalled() | ToolProgressed() | ToolEnded():
                yield from self._encode_tool(step)
            case PartsAdded():
                message_id, content = f"{self.run_id}-parts", {"parts": list(step.parts)}
                self.messages.append(ActivityMessage(id=message_id, activity_type=PARTS_ACTIVITY, content=content))
                yield ActivitySnapshotEvent(message_id=message_id, activity_type=PARTS_ACTIVITY, content=content)
            case PhaseChanged():
                yield self._set("phase", step.phase)
                if step.intent:
                    yield self._set("intent", step.intent)
            case ApprovalNeeded():
                yield self._set_tool(step.approval.call_id, "status", "waiting for approval")
                if not self._is_earlier:
                    self.is_over = True
                    yield self._finish(RunFinishedInterruptOutcome(interrupts=[build_interrupt(step.approval)]))
            case ApprovalEnded():
                yield self._set_tool(step.call_id, "status", "running")
            case FlowEnded():
                self.is_over = True
                yield self._set("phase", step.reason)
                yield self._finish(RunFinishedSuccessOutcome())

    def _encode_text(self, step: TextStarted | TextAdded | TextEnded | TextRetracted) -> Iterator[BaseEvent]:
        match step:
            case TextStarted():
                yield TextMessageStartEvent(message_id=step.message_id, role="assistant")
            case TextAdded():
                yield TextMessageContentEvent(message_id=step.message_id, delta=step.text)
            case TextEnded():
                self.messages.append(AssistantMessage(id=step.message_id, content=step.text))
                yield TextMessageEndEvent(message_id=step.message_id)
            case TextRetracted():
                yield TextMessageEndEvent(message_id=step.message_id)
                yield MessagesSnapshotEvent(messages=list(self.messages))

    def _encode_tool(self, step: ToolCalled | ToolProgressed | ToolEnded) -> Iterator[BaseEvent]:
        call_id = step.call_id
        match step:
            case ToolCalled():
                call = ToolCall(id=call_id, function=FunctionCall(name=step.tool, arguments=step.arguments))
                self.messages.append(AssistantMessage(id=call_id, tool_calls=[call]))
                yield ToolCallStartEvent(tool_call_id=call_id, tool_call_name=step.tool)
                yield ToolCallArgsEvent(tool_call_id=call_id, delta=step.arguments)
                yield ToolCallEndEvent(tool_call_id=call_id)
                self._progress["tools"][call_id] = {"tool": step.tool, "status": "running", "percent": 0}
                yield _patch("add", f"tools/{_escape(call_id)}", dict(self._progress["tools"][call_id]))
            case ToolProgressed():
                yield self._set_tool(call_id, "percent", step.percent)
            case ToolEnded():
                message_id = f"{call_id}-result"
                self.messages.append(ToolMessage(id=message_id, tool_call_id=call_id, content=step.text))
                yield ToolCallResultEvent(message_id=message_id, tool_call_id=call_id, content=step.text, role="tool")
                yield self._set_tool(call_id, "status", "completed" if step.is_ok else "failed")

    def _set(self, name: str, value: str) -> StateDeltaEvent:
        self._progress[name] = value
        return _patch("replace", name, value)

    def _set_tool(self, call_id: str, name: str, value: str | float) -> StateDeltaEvent:
        self._progress["tools"].setdefault(call_id, {})[name] = value
        return _patch("replace", f"tools/{_escape(call_id)}/{name}", value)

    def _finish(self, outcome: RunFinishedInterruptOutcome | RunFinishedSuccessOutcome) -> RunFinishedEvent:
        return RunFinishedEvent(thread_id=self.thread_id, run_id=self.run_id, outcome=outcome)


def build_interrupt(approval: ApprovalRequest) -> Interrupt:
    """Build the interrupt by which a user is asked to approve a tool call."""
    arguments = json.dumps(approval.model_dump(mode="json")["arguments"], ensure_ascii=False)
    return Interrupt(
        id=approval.approval_id,
        reason="tool_approval",
        message=f"{approval.tool} {arguments}",
        tool_call_id=approval.call_id,
        response_schema=APPROVAL_SCHEMA,
        expires_at=approval.expires_at.isoformat(),
    )


def messages_before_run(messages: Sequence[Message]) -> list[Message]:
    """Return the messages up to the user's last one. Those after it are of an earlier connection to this run."""
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    return list(messages[: last + 1])


def _patch(operation: str, path: str, value: object) -> StateDeltaEvent:
    return StateDeltaEvent.model_validate({"delta": [{"op": operation, "path": f"{_STATE}/{path}", "value": value}]})


def _escape(name: str) -> str:
    """Escape a name for a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
