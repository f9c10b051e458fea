"""A conversation with the agents: send a message, follow its events, receive the answer."""

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

# Wait this long for new history entries before reading the response stream again.
_HISTORY_BLOCK_MS = 50
# The last read of the outbound messages, which finds none, takes this long.
_OUTBOUND_TIMEOUT_S = 0.05


@dataclass(slots=True)
class ChatExchange:
    """One message and the events that it caused. `Conversation.follow` adds to `events` and `partial_answer`.

    Attributes:
        after_entry_id: The last entry of the history before the message.
        after_chunk: The number of the last chunk that was read from the response stream.
        partial_answer: The answer's text so far.
    """

    message: TextMessageEvent
    after_entry_id: str
    after_chunk: int = 0
    events: list[RecordedEvent] = field(default_factory=list)
    partial_answer: str = ""

    @property
    def answer(self) -> str | None:
        """The text of the answer; None if there is none yet."""
        for recorded in self.events:
            if recorded.topic == MESSAGE_SENT:
                content = recorded.document["content"]
                return str(content["text"]) if isinstance(content, dict) else None
        return None

    @property
    def is_over(self) -> bool:
        """Whether the answer was sent or failed, or a newer message interrupted it."""
        return self.is_interrupted or any(recorded.topic in {MESSAGE_SENT, MESSAGE_FAILED} for recorded in self.events)

    @property
    def is_interrupted(self) -> bool:
        """Whether a newer message interrupted the answer."""
        return any(
            recorded.topic == RESPONSE_GENERATED and _finish_reason(recorded) == "interrupted"
            for recorded in self.events
        )


class Conversation:
    """One stream, and one user who sends messages in it."""

    def __init__(self, bus: BusRuntime, stream_id: str, user_id: str | None = None) -> None:
        self.stream_id = stream_id
        self._bus = bus
        self._stores = bus.stores
        self._user_id = user_id

    def send(self, text: str) -> ChatExchange:
        """Publish a message and return its exchange. Raises InvalidEvent, BrokerUnavailable."""
        last_entry_id = self._stores.history.last_entry_id()
        last_chunk = self._stores.response_streams.last_number(self.stream_id)
        try:
            message = receive(text, stream_id=self.stream_id, user_id=self._user_id)
        except ValidationError as error:
            raise invalid_event("input.message.received", error) from error
        return ChatExchange(message, after_entry_id=last_entry_id, after_chunk=last_chunk)

    def follow(self, exchange: ChatExchange, timeout_s: float) -> Iterator[RecordedEvent | Chunk]:
        """Yield the events of an exchange as they are recorded, and the chunks of its answer as they are written.

        Ends when the exchange is over, or after `timeout_s` seconds.
        """
        entry_id, deadline = exchange.after_entry_id, time.monotonic() + timeout_s
        while not exchange.is_over and time.monotonic() < deadline:
            yield from self._read_chunks(exchange)
            for recorded in self._stores.history.read_after(entry_id, block_ms=_HISTORY_BLOCK_MS):
                entry_id = recorded.entry_id
                if recorded.attributes["correlation_id"] == exchange.message.correlation_id:
                    exchange.events.append(recorded)
                    yield recorded
        yield from self._read_chunks(exchange)

    def _read_chunks(self, exchange: ChatExchange) -> Iterator[Chunk]:
        """Yield the chunks that were written since the last call."""
        for chunk in self._stores.response_streams.read(self.stream_id, after=exchange.after_chunk):
            exchange.after_chunk = chunk.number
            if chunk.correlation_id == exchange.message.correlation_id:
                exchange.partial_answer = (
                    chunk.text if chunk.kind == "started" else exchange.partial_answer + chunk.text
                )
                yield chunk

    def take_messages(self) -> Iterator[str]:
        """Take the outbound messages of the stream: answers, and messages that an agent sent by itself."""
        while message := team_state(self._bus).outbound_messages.take(self.stream_id, _OUTBOUND_TIMEOUT_S):
            yield message.text


def _finish_reason(recorded: RecordedEvent) -> object:
    content = recorded.document["content"]
    return content.get("finish_reason") if isinstance(content, dict) else None


def new_stream_id(kind: str) -> str:
    """Create a new stream id."""
    return f"{kind}-{uuid4().hex[:8]}"
