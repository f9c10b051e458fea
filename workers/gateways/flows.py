"""Follow a flow: one user message, and everything that the agents do until its answer is ready.

`follow_flow` reads the events of the flow from the history, and the chunks of its answers from the response stream, in
an order that keeps causes before effects: chunks of an answer come after the request to the model and before the event
with the whole answer. `FlowTranslator` turns both into the steps that clients are told. Protocols encode the steps.

Nothing of a reader is stored. A reader that reconnects follows the flow from its start, and skips what it has sent.
A text is sent once: another attempt at an answer continues the text that was sent if it begins with it; otherwise
`TextRetracted` says that the text was replaced. If chunks have expired, the text of the event is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic_core import to_json

from petiole.events.catalog.flow import FlowCancelledEvent
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import IntentClassifiedEvent, ModelRequestedEvent, ResponseReadyEvent
from petiole.events.catalog.tools import (
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalGrantedEvent,
    ApprovalRequest,
    ApprovalRequestedEvent,
    ToolEvent,
    ToolExecutionRequestedEvent,
    ToolFailedEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from petiole.events.errors import StreamTimeout
from petiole.events.event import Event
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import HISTORY_START
from petiole.tasks.stores.response_streams import Chunk

POLL_S = 0.1
"""How long a reader waits for a chunk before it reads the history again."""

SILENCE_TIMEOUT_S = 600.0
"""How long a reader waits for the next event or chunk of a flow."""

_CHUNK_PAGE = 500


@dataclass(frozen=True, slots=True)
class FlowItem:
    """An event of a flow with its entry in the history, or a chunk of one of its answers."""

    value: Event | Chunk
    entry_id: str = ""


@dataclass(frozen=True, slots=True)
class TextStarted:
    """A text to the user begins."""

    message_id: str


@dataclass(frozen=True, slots=True)
class TextAdded:
    """More of the text that has begun."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class TextEnded:
    """The text is complete."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class TextRetracted:
    """The text that was sent is no longer valid; it is replaced by the next one, or by none."""

    message_id: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool is called."""

    call_id: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolProgressed:
    """A tool call made progress, in percent."""

    call_id: str
    percent: float


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool call completed or failed, with its result or error as text."""

    call_id: str
    text: str
    is_ok: bool


@dataclass(frozen=True, slots=True)
class ApprovalNeeded:
    """A tool call waits for a decision."""

    approval: ApprovalRequest


@dataclass(frozen=True, slots=True)
class ApprovalEnded:
    """The decision about a tool call was made, or is no longer waited for."""

    approval_id: str
    call_id: str


@dataclass(frozen=True, slots=True)
class PartsAdded:
    """Files and data that belong to the answer."""

    parts: Sequence[dict[str, object]]


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The agents have classified the message, or a model writes."""

    phase: str
    intent: str = ""


@dataclass(frozen=True, slots=True)
class FlowEnded:
    """The answer is ready, a newer message has interrupted it, or the flow was cancelled."""

    reason: Literal["answered", "interrupted", "cancelled"]


FlowStep: TypeAlias = (
    TextStarted
    | TextAdded
    | TextEnded
    | TextRetracted
    | ToolCalled
    | ToolProgressed
    | ToolEnded
    | ApprovalNeeded
    | ApprovalEnded
    | PartsAdded
    | PhaseChanged
    | FlowEnded
)


async def follow_flow(position: FlowPosition, *, timeout_s: float = SILENCE_TIMEOUT_S) -> AsyncGenerator[FlowItem]:
    """Yield the events and chunks of a flow after a position, and wait for more.

    Raises: StreamTimeout, BrokerUnavailable, StateStoreUnavailable.
    """
    bus, stream_id = position.bus, position.stream_id
    with bus.state_store_access(f"reading the flow {position.flow_id!r}"):
        async with bus.connect_async() as client:
            last_item_at = time.monotonic()
            while True:
                for item in await asyncio.to_thread(position.read):
                    last_item_at = time.monotonic()
                    yield item
                if time.monotonic() - last_item_at >= timeout_s:
                    raise StreamTimeout(stream_id, timeout_s, position.chunk)
                await bus.stores.response_streams.wait_async(client, stream_id, after=position.chunk, timeout_s=POLL_S)


def read_first_event(bus: BusRuntime, flow_id: str) -> Event | None:
    """Read the event that began a flow, which has its id, from the history; None if it is not kept."""
    recorded = bus.stores.history.read_flow(flow_id)
    events = bus.event_registry.read_known(each.document_or_stub for each in recorded)
    return next((event for event in events if event.event_id == flow_id), None)


@dataclass(slots=True)
class FlowPosition:
    """A reader's position, at first the start of the flow.

    Attributes:
        pending: Chunks of answers to an event that has not been read from the history yet.
        handled: The ids of the events that were read; an answer has the id of the event that it answers.
    """

    bus: BusRuntime
    stream_id: str
    flow_id: str
    entry_id: str = HISTORY_START
    chunk: int = 0
    pending: list[Chunk] = field(default_factory=list)
    handled: set[str] = field(default_factory=set)

    def read(self) -> Sequence[FlowItem]:
        """Read the next events and chunks. Events first: their chunks have then been written."""
        streams = self.bus.stores.response_streams
        events = self.bus.stores.history.read_flow_after(self.flow_id, self.entry_id)
        streams.mark_lost(self.stream_id)
        while page := streams.read(self.stream_id, after=self.chunk, count=_CHUNK_PAGE):
            self.chunk = page[-1].number
            self.pending += [chunk for chunk in page if chunk.correlation_id == self.flow_id]
        items: list[FlowItem] = []
        for recorded in events:
            self.entry_id = recorded.entry_id
            for event in self.bus.event_registry.read_known([recorded.document_or_stub]):
                if isinstance(event, ResponseGeneratedEvent | ResponseFailedEvent | ResponseReadyEvent):
                    items += self._take_chunks()
                self.handled.add(event.event_id)
                items.append(FlowItem(event, recorded.entry_id))
        return [*items, *self._take_chunks()]

    def _take_chunks(self) -> list[FlowItem]:
        """Take the chunks of answers to events that were read."""
        taken = [chunk for chunk in self.pending if chunk.answer_id in self.handled]
        self.pending = [chunk for chunk in self.pending if chunk.answer_id not in self.handled]
        return [FlowItem(chunk) for chunk in taken]


@dataclass(slots=True)
class FlowTranslator:
    """Turns the events and chunks of one flow into steps. The same items always give the same steps."""

    _message_id: str = ""
    _sent: str = ""
    _attempt: int = 1
    _attempt_text: str = ""
    _answer: str | None = None

    def translate(self, item: Event | Chunk) -> Iterator[FlowStep]:
        """Yield the steps of an event or chunk."""
        match item:
            case Chunk():
                yield from self._add_chunk(item)
            case IntentClassifiedEvent():
                yield PhaseChanged("understood", item.content.intent)
            case ModelRequestedEvent():
                yield PhaseChanged("answering")
            case ToolEvent():
                yield from translate_tool_event(item)
            case FlowCancelledEvent():
                yield from self._retract()
                yield FlowEnded("cancelled")
            case ResponseGeneratedEvent() | ResponseFailedEvent() | ResponseReadyEvent():
                yield from self._finish(item)

    def _finish(self, event: ResponseGeneratedEvent | ResponseFailedEvent | ResponseReadyEvent) -> Iterator[FlowStep]:
        """End a text with the text of the event, which is valid whatever was written before."""
        match event:
            case ResponseGeneratedEvent():
                self._answer = event.content.text
                yield from self.replace_text(event.causation_id or event.event_id, event.content.text, is_whole=True)
                if event.content.finish_reason == "interrupted":
                    yield FlowEnded("interrupted")
            case ResponseFailedEvent():
                self._answer = None
                yield from self._retract()
            case ResponseReadyEvent():
                if self._answer != event.content.text:
                    yield from self.replace_text(event.event_id, event.content.text, is_whole=True)
                if event.content.parts:
                    yield PartsAdded(event.content.model_dump(mode="json")["parts"])
                yield FlowEnded("answered")

    def _add_chunk(self, chunk: Chunk) -> Iterator[FlowStep]:
        if chunk.kind == "started":
            self._attempt, self._attempt_text = chunk.attempt, ""
        elif chunk.kind == "delta" and chunk.attempt == self._attempt:
            self._attempt_text += chunk.text
            message_id = chunk.answer_id if chunk.attempt == 1 else f"{chunk.answer_id}-{chunk.attempt}"
            yield from self.replace_text(message_id, self._attempt_text)

    def replace_text(self, message_id: str, text: str, *, is_whole: bool = False) -> Iterator[FlowStep]:
        """Send what is missing of a text; retract what was sent if the text does not begin with it."""
        if not text.startswith(self._sent) and (is_whole or not self._sent.startswith(text)):
            # A name of its own: the retracted text may have had this one.
            message_id = f"{message_id}-whole" if message_id == self._message_id else message_id
            yield from self._retract()
        if not self._message_id and text:
            self._message_id = message_id
            yield TextStarted(message_id)
        if len(text) > len(self._sent):
            added, self._sent = text[len(self._sent) :], text
            yield TextAdded(self._message_id, added)
        if is_whole and self._message_id:
            yield TextEnded(self._message_id, self._sent)
            self._message_id, self._sent = "", ""

    def _retract(self) -> Iterator[FlowStep]:
        if self._message_id:
            yield TextRetracted(self._message_id)
        self._message_id, self._sent = "", ""


def translate_tool_event(event: ToolEvent) -> Iterator[FlowStep]:
    """Yield the steps of an event about a tool call."""
    match event:
        case ToolExecutionRequestedEvent():
            arguments = to_json(event.content.model_dump(mode="json")["arguments"]).decode()
            yield ToolCalled(event.content.call_id, event.content.tool, arguments)
        case ToolProgressEvent():
            yield ToolProgressed(event.content.call_id, event.content.percent)
        case ToolResultEvent():
            result = event.content.value if event.content.ok else event.content.error
            text = result if isinstance(result, str) else to_json(result).decode()
            yield ToolEnded(event.content.call_id, text, event.content.ok)
        case ToolFailedEvent():
            yield ToolEnded(event.content.call_id, event.content.error, is_ok=False)
        case ApprovalRequestedEvent():
            yield ApprovalNeeded(event.content)
        case ApprovalGrantedEvent() | ApprovalDeniedEvent() | ApprovalExpiredEvent():
            yield ApprovalEnded(event.content.approval_id, event.content.call_id)
