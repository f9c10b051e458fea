"""A task of A2A: a flow as the protocol's task, and the changes of the task as the protocol's events.

Each text of the answer is an artifact, and so is each of its files and data. A text that was retracted is replaced: its
artifact is sent anew. A tool call that needs approval makes the task `input required`; its message has the call, and
the decision is a message with {"approved": true} or {"approved": false} as data.

Source: A2A 1.0, section 4, Protocol data model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from a2a.helpers import new_data_part, new_text_part, new_url_part
from a2a.types import (
    Artifact,
    Message,
    Role,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import TaskNotFoundError

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.tools import ApprovalRequest
from petiole.events.event import Event
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.flows import (
    ApprovalEnded,
    ApprovalNeeded,
    FlowEnded,
    FlowItem,
    FlowPosition,
    FlowStep,
    FlowTranslator,
    PartsAdded,
    TextAdded,
    TextEnded,
    TextRetracted,
    ToolCalled,
    read_first_event,
)

TaskUpdate: TypeAlias = TaskStatusUpdateEvent | TaskArtifactUpdateEvent

_STATE_BY_REASON: Final = {
    "answered": TaskState.TASK_STATE_COMPLETED,
    "interrupted": TaskState.TASK_STATE_CANCELED,
    "cancelled": TaskState.TASK_STATE_CANCELED,
}
MESSAGE_ID: Final = "a2a_message_id"
"""The field of an event's context that has the id which the client gave its message."""

FINAL_STATES: Final = frozenset({TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_CANCELED})
WAITING_STATES: Final = FINAL_STATES | {TaskState.TASK_STATE_INPUT_REQUIRED}
"""The states in which nothing happens before the client does something."""


@dataclass(slots=True)
class FlowTask:
    """The task of a flow: what its items have led to so far."""

    position: FlowPosition
    message: Message
    state: TaskState = TaskState.TASK_STATE_SUBMITTED
    texts: list[str] = field(default_factory=list)
    parts: list[Artifact] = field(default_factory=list)
    pending: dict[str, ApprovalRequest] = field(default_factory=dict)
    updated_at: datetime | None = None
    _translator: FlowTranslator = field(default_factory=FlowTranslator)
    _is_open: bool = False

    @property
    def stream_id(self) -> str:
        """The stream of the flow: the context of the task."""
        return self.position.stream_id

    @property
    def flow_id(self) -> str:
        """The id of the flow, and of the task."""
        return self.position.flow_id

    @property
    def approval(self) -> ApprovalRequest | None:
        """The tool call about which the client decides next."""
        return next(iter(self.pending.values()), None)

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.state in FINAL_STATES

    def advance(self, item: FlowItem) -> Iterator[TaskUpdate]:
        """Take an item of the flow, and yield the events for the changes of the task."""
        if isinstance(item.value, Event):
            self.updated_at = item.value.timestamp
        for step in self._translator.translate(item.value):
            if not self.is_final:
                yield from self._apply(step)

    def read(self) -> None:
        """Take what is recorded of the flow."""
        for item in self.position.read():
            for _ in self.advance(item):
                pass

    def _apply(self, step: FlowStep) -> Iterator[TaskUpdate]:
        match step:
            case TextAdded() | TextEnded() | TextRetracted():
                yield from self._apply_text(step)
            case PartsAdded():
                self.parts = [build_part_artifact(number, part) for number, part in enumerate(step.parts, 1)]
                for artifact in self.parts:
                    yield self._wrap_artifact(artifact, append=False, last_chunk=True)
            case ToolCalled() if not self.pending:
                yield self._set_state(TaskState.TASK_STATE_WORKING)
            case ApprovalNeeded():
                self.pending[step.approval.approval_id] = step.approval
                yield self._set_state(TaskState.TASK_STATE_INPUT_REQUIRED)
            case ApprovalEnded():
                self.pending.pop(step.approval_id, None)
                is_waiting = bool(self.pending)
                yield self._set_state(
                    TaskState.TASK_STATE_INPUT_REQUIRED if is_waiting else TaskState.TASK_STATE_WORKING
                )
            case FlowEnded():
                yield self._set_state(_STATE_BY_REASON[step.reason])

    def _apply_text(self, step: TextAdded | TextEnded | TextRetracted) -> Iterator[TaskUpdate]:
        match step:
            case TextAdded():
                if not self._is_open:
                    self.texts.append("")
                    self._is_open = True
                has_text = bool(self.texts[-1])
                self.texts[-1] += step.text
                yield self._artifact_update(step.text, append=has_text)
            case TextEnded():
                self._is_open = False
                yield self._artifact_update("", append=True, last_chunk=True)
            case TextRetracted():
                # The next text replaces it: it stays open, and is empty.
                self.texts[-1] = ""

    def _set_state(self, state: TaskState) -> TaskStatusUpdateEvent:
        self.state = state
        return TaskStatusUpdateEvent(task_id=self.flow_id, context_id=self.stream_id, status=self._status())

    def _status(self) -> TaskStatus:
        status = TaskStatus(state=self.state, timestamp=self.updated_at)
        if self.approval is not None and self.state == TaskState.TASK_STATE_INPUT_REQUIRED:
            status.message.CopyFrom(build_approval_message(self.stream_id, self.flow_id, self.approval))
        return status

    def _artifact_update(self, text: str, *, append: bool, last_chunk: bool = False) -> TaskArtifactUpdateEvent:
        artifact = Artifact(artifact_id=f"answer-{len(self.texts)}", name="answer", parts=[new_text_part(text)])
        return self._wrap_artifact(artifact, append=append, last_chunk=last_chunk)

    def _wrap_artifact(self, artifact: Artifact, *, append: bool, last_chunk: bool) -> TaskArtifactUpdateEvent:
        return TaskArtifactUpdateEvent(
            task_id=self.flow_id, context_id=self.stream_id, artifact=artifact, append=append, last_chunk=last_chunk
        )

    def build_task(self, history_length: int | None = None, *, has_artifacts: bool = True) -> Task:
        """Build the protocol's task, with its text so far."""
        texts = [
            Artifact(artifact_id=f"answer-{number}", name="answer", parts=[new_text_part(text)])
            for number, text in enumerate(self.texts, 1)
            if text
        ]
        history = [] if history_length == 0 else [self.message]
        return Task(
            id=self.flow_id,
            context_id=self.stream_id,
            status=self._status(),
            # Clients look for a file or data in the first artifact; texts they join.
            artifacts=[*self.parts, *texts] if has_artifacts else [],
            history=history,
        )


def build_part_artifact(number: int, part: dict[str, object]) -> Artifact:
    """Build the artifact of a part of an answer: a file if it has a `url`, otherwise data."""
    url, media_type, filename = (str(part.get(key) or "") for key in ("url", "media_type", "filename"))
    built = new_url_part(url, media_type, filename) if url else new_data_part(part.get("data", part))
    return Artifact(artifact_id=f"part-{number}", name=filename or "part", parts=[built])


def build_approval_message(stream_id: str, flow_id: str, approval: ApprovalRequest) -> Message:
    """Build the message that asks the client to approve a tool call."""
    call = approval.model_dump(mode="json", include={"approval_id", "tool", "arguments", "expires_at"})
    text = f'{approval.tool} needs approval; answer with the data {{"approved": true}} or {{"approved": false}}'
    return Message(
        message_id=approval.approval_id,
        context_id=stream_id,
        task_id=flow_id,
        role=Role.ROLE_AGENT,
        parts=[new_text_part(text), new_data_part(call)],
    )


def read_task(bus: BusRuntime, task_id: str) -> FlowTask:
    """Read a task from the history. Raises TaskNotFoundError."""
    with bus.state_store_access(f"reading the task {task_id!r}"):
        message = read_first_event(bus, task_id)
        if not isinstance(message, TextMessageEvent):
            raise TaskNotFoundError(message=f"no task {task_id!r} is kept; its history may have been removed")
        task = FlowTask(FlowPosition(bus, message.stream_id, task_id), _build_message(message))
        task.read()
    return task


def _build_message(event: TextMessageEvent) -> Message:
    return Message(
        message_id=str(event.context.extra.get(MESSAGE_ID, event.event_id)),
        context_id=event.stream_id,
        task_id=event.event_id,
        role=Role.ROLE_USER,
        parts=[new_text_part(event.content.text)],
    )
