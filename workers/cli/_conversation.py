"""A conversation with the agents: send a message, follow its events, receive the answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic import ValidationError

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.validation import invalid_event
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import Chunk
from petiole.workers.agents.input import publish_message
from petiole.workers.state import team_state

APPROVAL_REQUESTED = "tools.approval.requested"
APPROVAL_ENDS = {"tools.approval.granted", "tools.approval.denied", "tools.approval.expired"}
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
        """The text of the answer; None if there is none yet. A suggestion is no answer."""
        sent = next((recorded for recorded in self.events if _is_answer(recorded, MESSAGE_SENT)), None)
        return str(_content(sent)["text"]) if sent else None

    @property
    def pending_approvals(self) -> list[Mapping[str, object]]:
        """The tool calls that wait for an approval: the contents of their requests."""
        decided = {_content(recorded)["approval_id"] for recorded in self.events if recorded.topic in APPROVAL_ENDS}
        requests = (_content(recorded) for recorded in self.events if recorded.topic == APPROVAL_REQUESTED)
        return [content for content in requests if content["approval_id"] not in decided]

    @property
    def is_over(self) -> bool:
        """Whether the answer was sent or failed, or a newer message interrupted it."""
        return self.is_interrupted or any(
            _is_answer(recorded, MESSAGE_SENT, MESSAGE_FAILED) for recorded in self.events
        )

    @property
    def is_interrupted(self) -> bool:
        """Whether a newer message interrupted the answer."""
        return any(
            recorded.topic == RESPONSE_GENERATED and _content(recorded).get("finish_reason") == "interrupted"
            for recorded in self.events
        )


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that the user received; `question` is the user's message that it answers, if it is an answer."""

    text: str
    kind: str
    question: str | None = None


class Conversation:
    """One stream, and one user who sends messages in it."""

    def __init__(self, bus: BusRuntime, stream_id: str, user_id: str | None = None) -> None:
        self.stream_id = stream_id
        self._bus = bus
        self._stores = bus.stores
        self._user_id = user_id
        self._questions: dict[str, str] = {}

    def send(self, text: str) -> ChatExchange:
        """Publish a message and return its exchange. Raises InvalidEvent, BrokerUnavailable."""
        last_entry_id = self._stores.history.last_entry_id()
        last_chunk = self._stores.response_streams.last_number(self.stream_id)
        try:
            message = publish_message(text, stream_id=self.stream_id, user_id=self._user_id)
        except ValidationError as error:
            raise invalid_event("input.message.received", error) from error
        self._questions[message.correlation_id] = text
        return ChatExchange(message, after_entry_id=last_entry_id, after_chunk=last_chunk)

    def follow(self, exchange: ChatExchange, timeout_s: float) -> Iterator[RecordedEvent | Chunk]:
        """Yield the events of an exchange as they are recorded, and the chunks of its answer as they are written.

        Ends when the exchange is over, or when nothing has happened for `timeout_s` seconds.
        """
        entry_id = exchange.events[-1].entry_id if exchange.events else exchange.after_entry_id
        last_item_at = time.monotonic()
        while not exchange.is_over and time.monotonic() - last_item_at < timeout_s:
            for chunk in self._read_chunks(exchange):
                last_item_at = time.monotonic()
                yield chunk
            for recorded in self._stores.history.read_after(entry_id, block_ms=_HISTORY_BLOCK_MS):
                entry_id = recorded.entry_id
                if recorded.attributes["correlation_id"] == exchange.message.correlation_id:
                    last_item_at = time.monotonic()
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

    def take_messages(self) -> Iterator[ReceivedMessage]:
        """Take the outbound messages of the stream: answers, and messages that an agent sent by itself."""
        messages = []
        while message := team_state(self._bus).outbound_messages.take(self.stream_id, _OUTBOUND_TIMEOUT_S):
            messages.append(message)
        sent = self._read_sent() if messages else {}
        for message in messages:
            recorded = sent.get(message.message_id)
            correlation_id = str(recorded.attributes["correlation_id"]) if recorded else ""
            kind = str(_content(recorded).get("kind", "answer")) if recorded else "answer"
            yield ReceivedMessage(message.text, kind, self._questions.get(correlation_id))

    def _read_sent(self) -> dict[object, RecordedEvent]:
        """Read which event sent each message of the stream, by message id."""
        recorded = self._stores.history.read_stream(self.stream_id)
        return {_content(event)["message_id"]: event for event in recorded if event.topic == MESSAGE_SENT}


def _is_answer(recorded: RecordedEvent, *topics: str) -> bool:
    return recorded.topic in topics and _content(recorded).get("kind", "answer") == "answer"


def _content(recorded: RecordedEvent) -> Mapping[str, object]:
    content = recorded.document["content"]
    return content if isinstance(content, Mapping) else {}


def new_stream_id(kind: str) -> str:
    """Create a new stream id."""
    return f"{kind}-{uuid4().hex[:8]}"
