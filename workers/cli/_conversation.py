"""A conversation as its user sees it: something is said, events follow, an answer comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic import ValidationError

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.validation import invalid_event
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import Chunk
from petiole.workers.agents.input import receive
from petiole.workers.state import team_state

MESSAGE_SENT = "output.message.sent"
MESSAGE_FAILED = "output.message.failed"
RESPONSE_GENERATED = "llm.response.generated"

# How long the history is waited for before what is being written is looked at.
_HISTORY_BLOCK_MS = 50
# A mailbox is read to its end: this is how long the last, empty look into it takes.
_MAILBOX_TIMEOUT_S = 0.05


@dataclass(slots=True)
class ChatExchange:
    """One message and what followed from it; `events` and `written` grow while it is followed.

    `after_entry_id` is the last entry of the history before the message, `after_chunk` the last piece of the stream's
    draft that was looked at. `written` is the answer as far as it has come.
    """

    message: TextMessageEvent
    after_entry_id: str
    after_chunk: int = 0
    events: list[RecordedEvent] = field(default_factory=list)
    partial_answer: str = ""

    @property
    def answer(self) -> str | None:
        """What was answered; None where nothing was, or not yet."""
        for recorded in self.events:
            if recorded.topic == MESSAGE_SENT:
                content = recorded.document["content"]
                return str(content["text"]) if isinstance(content, dict) else None
        return None

    @property
    def is_over(self) -> bool:
        """The answer was delivered, or could not be, or a newer message took its place."""
        return self.is_interrupted or any(recorded.topic in {MESSAGE_SENT, MESSAGE_FAILED} for recorded in self.events)

    @property
    def is_interrupted(self) -> bool:
        """A newer message took the place of the answer."""
        return any(
            recorded.topic == RESPONSE_GENERATED and _finish_reason(recorded) == "interrupted"
            for recorded in self.events
        )


class Conversation:
    """One stream, and one user who speaks in it."""

    def __init__(self, bus: BusRuntime, stream_id: str, user_id: str | None = None) -> None:
        self.stream_id = stream_id
        self._bus = bus
        self._stores = bus.stores
        self._user_id = user_id

    def send(self, text: str) -> ChatExchange:
        """Publish a message; returns the turn that begins with it. Raises: InvalidEvent, BrokerUnavailable."""
        end, written = self._stores.history.last_entry_id(), self._stores.response_streams.last_number(self.stream_id)
        try:
            message = receive(text, stream_id=self.stream_id, user_id=self._user_id)
        except ValidationError as error:
            raise invalid_event("input.message.received", error) from error
        return ChatExchange(message, after_entry_id=end, after_chunk=written)

    def follow(self, turn: ChatExchange, timeout_s: float) -> Iterator[RecordedEvent | Chunk]:
        """Yield what follows in a turn, as it comes, until the answer is out or the limit is reached.

        That is events as they are recorded, and between them the answer's text as it is written.
        """
        entry_id, deadline = turn.after_entry_id, time.monotonic() + timeout_s
        while not turn.is_over and time.monotonic() < deadline:
            yield from self._read_chunks(turn)
            for recorded in self._stores.history.read_after(entry_id, block_ms=_HISTORY_BLOCK_MS):
                entry_id = recorded.entry_id
                if recorded.attributes["correlation_id"] == turn.message.correlation_id:
                    turn.events.append(recorded)
                    yield recorded
        yield from self._read_chunks(turn)

    def _read_chunks(self, turn: ChatExchange) -> Iterator[Chunk]:
        """Yield what was written of the answer since the last time."""
        for piece in self._stores.response_streams.read(self.stream_id, after=turn.after_chunk):
            turn.after_chunk = piece.number
            if piece.correlation_id == turn.message.correlation_id:
                turn.partial_answer = piece.text if piece.kind == "started" else turn.partial_answer + piece.text
                yield piece

    def take_messages(self) -> Iterator[str]:
        """Take what waits in the stream's mailbox: answers, and what was said unasked."""
        while reply := team_state(self._bus).outbound_messages.take(self.stream_id, _MAILBOX_TIMEOUT_S):
            yield reply.text


def _finish_reason(recorded: RecordedEvent) -> object:
    content = recorded.document["content"]
    return content.get("finish_reason") if isinstance(content, dict) else None


def new_stream_id(kind: str) -> str:
    """Name a stream that nobody used before."""
    return f"{kind}-{uuid4().hex[:8]}"
