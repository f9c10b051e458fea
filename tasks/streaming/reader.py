"""Reading: an answer while it is written, by whoever wants to see it grow.

    for piece in read_answer(stream_id, answer_id):            # text as it comes; ends with the answer
    async for piece in read_answer.aio(stream_id, answer_id):
    for piece in read_answer.all(stream_id, after=piece.number):   # every answer of the stream, one after the other

An answer's id is that of its `orchestrator.llm.requested`. Pieces are numbered: whoever comes back says `after=` the
last number that it has, and gets exactly the rest; whoever comes late, or early, begins at the beginning.

Reading ends with the end of a run: finished, failed, interrupted, or lost, where its writer died; unless another run
of the answer has begun already. `started` with a higher `attempt` means that the text begins anew. Whoever was told
`lost` or `failed` and still wants the answer reads on after it: the delivery may be tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from petiole.events.errors import StreamTimeout, StreamTruncated
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.response_streams import Drafts, Piece

__all__ = ["AnswerReader", "Piece"]

TIMEOUT_S = 60.0
SLICE_S = 0.5
"""How long a reader waits at a time, and how often it looks whether the writer lives."""


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """What `read_answer` is."""

    bus: BusRuntime

    def __call__(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = TIMEOUT_S
    ) -> Iterator[Piece]:
        """Read an answer up to the end of its last run; `timeout` (s) is the longest silence.

        Raises: StreamTimeout, StreamTruncated.
        """
        return self._read(_Place(stream_id, answer_id, after, timeout))

    def all(self, stream_id: str, *, after: int = 0, timeout: float = TIMEOUT_S) -> Iterator[Piece]:
        """Read all answers of a stream, and wait for more. Raises as `__call__`."""
        return self._read(_Place(stream_id, None, after, timeout))

    def aio(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = TIMEOUT_S
    ) -> AsyncIterator[Piece]:
        """Read as `__call__` does, in an asyncio loop; holds one connection."""
        return self._read_async(_Place(stream_id, answer_id, after, timeout))

    def all_aio(self, stream_id: str, *, after: int = 0, timeout: float = TIMEOUT_S) -> AsyncIterator[Piece]:
        """Read as `all` does, in an asyncio loop; holds one connection."""
        return self._read_async(_Place(stream_id, None, after, timeout))

    def _read(self, place: _Place) -> Iterator[Piece]:
        drafts = self.bus.stores.drafts
        while True:
            yield from place.take(_look(drafts, place))
            if place.is_over:
                return
            drafts.wait(place.stream_id, after=place.after, timeout_s=place.patience_s())

    async def _read_async(self, place: _Place) -> AsyncIterator[Piece]:
        drafts = self.bus.stores.drafts
        async with self.bus.connect_async() as client:
            while True:
                for piece in place.take(await asyncio.to_thread(_look, drafts, place)):
                    yield piece
                if place.is_over:
                    return
                await drafts.wait_async(client, place.stream_id, after=place.after, timeout_s=place.patience_s())


@dataclass(slots=True)
class _Place:
    """How far a reader has come; `answer_id` is None for whoever reads all of a stream."""

    stream_id: str
    answer_id: str | None
    after: int
    timeout_s: float
    is_over: bool = False
    has_begun: bool = False
    looked_at: float = float("-inf")
    heard_at: float = field(default_factory=time.monotonic)

    def take(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """Yield of the next pieces those that are wanted."""
        for piece in pieces:
            self.after = piece.number
            if self.answer_id in (None, piece.answer_id):
                self.heard_at = time.monotonic()
                self.is_over = self.answer_id is not None and piece.is_end
                yield piece

    def patience_s(self) -> float:
        """Tell how long to wait now. Raises StreamTimeout."""
        left_s = self.heard_at + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise StreamTimeout(self.stream_id, self.timeout_s, self.after)
        return min(SLICE_S, left_s)


def _look(drafts: Drafts, place: _Place) -> Sequence[Piece]:
    """Read what follows; see to those whose writers died. Raises StreamTruncated."""
    if time.monotonic() - place.looked_at >= SLICE_S:
        drafts.look_after(place.stream_id)
        place.looked_at = time.monotonic()
    if not place.has_begun:
        _find_beginning(drafts, place)
    pieces = drafts.read(place.stream_id, after=place.after)
    if pieces and place.has_begun and pieces[0].number > place.after + 1:
        raise StreamTruncated(place.stream_id, place.after + 1, pieces[0].number)
    place.has_begun = place.has_begun or bool(pieces)
    return pieces


def _find_beginning(drafts: Drafts, place: _Place) -> None:
    """Go to where the answer begins, unless the reader is beyond that already."""
    if place.answer_id is None:
        place.has_begun = place.after > 0
        return
    first, last = drafts.bounds(place.stream_id, place.answer_id)
    place.is_over = last is not None and place.after >= last
    if first is not None:
        place.after = max(place.after, first - 1)
        place.has_begun = True
