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
from petiole.tasks.stores.history import Recorded
from petiole.tasks.stores.response_streams import Piece
from petiole.workers.agents.input import receive
from petiole.workers.state import team_state

ANSWERED = "output.message.sent"
UNDELIVERED = "output.message.failed"
WRITTEN = "llm.response.generated"

# How long the history is waited for before what is being written is looked at.
_WAIT_MS = 50
# A mailbox is read to its end: this is how long the last, empty look into it takes.
_LOOK_S = 0.05


@dataclass(slots=True)
class Turn:
    """One message and what followed from it; `events` and `written` grow while it is followed.

    `began_after` is the last entry of the history before the message, `written_after` the last piece of the stream's
    draft that was looked at. `written` is the answer as far as it has come.
    """

    message: TextMessageEvent
    began_after: str
    written_after: int = 0
    events: list[Recorded] = field(default_factory=list)
    written: str = ""

    @property
    def answer(self) -> str | None:
        """What was answered; None where nothing was, or not yet."""
        for recorded in self.events:
            if recorded.topic == ANSWERED:
                content = recorded.document["content"]
                return str(content["text"]) if isinstance(content, dict) else None
        return None

    @property
    def is_over(self) -> bool:
        """The answer was delivered, or could not be, or a newer message took its place."""
        return self.is_interrupted or any(recorded.topic in {ANSWERED, UNDELIVERED} for recorded in self.events)

    @property
    def is_interrupted(self) -> bool:
        """A newer message took the place of the answer."""
        return any(recorded.topic == WRITTEN and _why(recorded) == "interrupted" for recorded in self.events)


class Conversation:
    """One stream, and one user who speaks in it."""

    def __init__(self, bus: BusRuntime, stream_id: str, user_id: str | None = None) -> None:
        self.stream_id = stream_id
        self._bus = bus
        self._stores = bus.stores
        self._user_id = user_id

    def say(self, text: str) -> Turn:
        """Publish a message; returns the turn that begins with it. Raises: InvalidEvent, BrokerUnavailable."""
        end, written = self._stores.history.last_entry_id(), self._stores.drafts.last_number(self.stream_id)
        try:
            message = receive(text, stream_id=self.stream_id, user_id=self._user_id)
        except ValidationError as error:
            raise invalid_event("input.message.received", error) from error
        return Turn(message, began_after=end, written_after=written)

    def follow(self, turn: Turn, limit_s: float) -> Iterator[Recorded | Piece]:
        """Yield what follows in a turn, as it comes, until the answer is out or the limit is reached.

        That is events as they are recorded, and between them the answer's text as it is written.
        """
        entry_id, deadline = turn.began_after, time.monotonic() + limit_s
        while not turn.is_over and time.monotonic() < deadline:
            yield from self._written(turn)
            for recorded in self._stores.history.since(entry_id, block_ms=_WAIT_MS):
                entry_id = recorded.entry_id
                if recorded.attributes["correlation_id"] == turn.message.correlation_id:
                    turn.events.append(recorded)
                    yield recorded
        yield from self._written(turn)

    def _written(self, turn: Turn) -> Iterator[Piece]:
        """Yield what was written of the answer since the last time."""
        for piece in self._stores.drafts.read(self.stream_id, after=turn.written_after):
            turn.written_after = piece.number
            if piece.correlation_id == turn.message.correlation_id:
                turn.written = piece.text if piece.kind == "started" else turn.written + piece.text
                yield piece

    def unread(self) -> Iterator[str]:
        """Take what waits in the stream's mailbox: answers, and what was said unasked."""
        while reply := team_state(self._bus).replies.take(self.stream_id, _LOOK_S):
            yield reply.text


def _why(recorded: Recorded) -> object:
    content = recorded.document["content"]
    return content.get("finish_reason") if isinstance(content, dict) else None


def new_stream(kind: str) -> str:
    """Name a stream that nobody used before."""
    return f"{kind}-{uuid4().hex[:8]}"
