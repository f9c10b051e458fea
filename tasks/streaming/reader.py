"""Reading: an answer while it is written, by whoever wants to see it grow.

    for piece in read_answer(stream_id, answer_id):            # text as it comes; ends with the answer
    async for piece in read_answer.aio(stream_id, answer_id):
    for piece in read_answer.all(stream_id, after=piece.number):   # every answer of the stream, one after the other

An answer's id is that of its `orchestrator.llm.requested`. Pieces are numbered: whoever comes back says `after=` the
last number that it has, and gets exactly the rest; whoever comes late, or early, begins at the beginning.

Reading ends with the end of a run: finished, failed, interrupted, or lost, where its writer died; unless another run
of the answer has begun already. `started` with a higher `attempt` means that the text begins anew. Whoever was told
`abandoned` or `failed` and still wants the answer reads on after it: the delivery may be tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from petiole.events.errors import StreamTimeout, StreamTruncated
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.response_streams import Chunk, ResponseStreams

__all__ = ["Chunk", "ResponseStreamReader"]

DEFAULT_SILENCE_TIMEOUT_S = 60.0
READ_SLICE_S = 0.5
"""How long a reader waits at a time, and how often it looks whether the writer lives."""


@dataclass(frozen=True, slots=True)
class ResponseStreamReader:
    """What `read_answer` is."""

    bus: BusRuntime

    def __call__(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> Iterator[Chunk]:
        """Read an answer up to the end of its last run; `timeout` (s) is the longest silence.

        Raises: StreamTimeout, StreamTruncated.
        """
        return self._read(_ReadPosition(stream_id, answer_id, after, timeout))

    def all(self, stream_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S) -> Iterator[Chunk]:
        """Read all answers of a stream, and wait for more. Raises as `__call__`."""
        return self._read(_ReadPosition(stream_id, None, after, timeout))

    def aio(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> AsyncIterator[Chunk]:
        """Read as `__call__` does, in an asyncio loop; holds one connection."""
        return self._read_async(_ReadPosition(stream_id, answer_id, after, timeout))

    def all_aio(
        self, stream_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> AsyncIterator[Chunk]:
        """Read as `all` does, in an asyncio loop; holds one connection."""
        return self._read_async(_ReadPosition(stream_id, None, after, timeout))

    def _read(self, position: _ReadPosition) -> Iterator[Chunk]:
        drafts = self.bus.stores.response_streams
        while True:
            yield from position.select(_read_next(drafts, position))
            if position.is_finished:
                return
            drafts.wait(position.stream_id, after=position.after, timeout_s=position.remaining_wait_s())

    async def _read_async(self, position: _ReadPosition) -> AsyncIterator[Chunk]:
        drafts = self.bus.stores.response_streams
        async with self.bus.connect_async() as client:
            while True:
                for piece in position.select(await asyncio.to_thread(_read_next, drafts, position)):
                    yield piece
                if position.is_finished:
                    return
                await drafts.wait_async(
                    client, position.stream_id, after=position.after, timeout_s=position.remaining_wait_s()
                )


@dataclass(slots=True)
class _ReadPosition:
    """How far a reader has come; `answer_id` is None for whoever reads all of a stream."""

    stream_id: str
    answer_id: str | None
    after: int
    timeout_s: float
    is_finished: bool = False
    has_begun: bool = False
    checked_at: float = float("-inf")
    last_chunk_at: float = field(default_factory=time.monotonic)

    def select(self, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        """Yield of the next pieces those that are wanted."""
        for piece in chunks:
            self.after = piece.number
            if self.answer_id in (None, piece.answer_id):
                self.last_chunk_at = time.monotonic()
                self.is_finished = self.answer_id is not None and piece.is_end
                yield piece

    def remaining_wait_s(self) -> float:
        """Tell how long to wait now. Raises StreamTimeout."""
        left_s = self.last_chunk_at + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise StreamTimeout(self.stream_id, self.timeout_s, self.after)
        return min(READ_SLICE_S, left_s)


def _read_next(drafts: ResponseStreams, position: _ReadPosition) -> Sequence[Chunk]:
    """Read what follows; see to those whose writers died. Raises StreamTruncated."""
    if time.monotonic() - position.checked_at >= READ_SLICE_S:
        drafts.mark_lost(position.stream_id)
        position.checked_at = time.monotonic()
    if not position.has_begun:
        _seek_start(drafts, position)
    pieces = drafts.read(position.stream_id, after=position.after)
    if pieces and position.has_begun and pieces[0].number > position.after + 1:
        raise StreamTruncated(position.stream_id, position.after + 1, pieces[0].number)
    position.has_begun = position.has_begun or bool(pieces)
    return pieces


def _seek_start(drafts: ResponseStreams, position: _ReadPosition) -> None:
    """Go to where the answer begins, unless the reader is beyond that already."""
    if position.answer_id is None:
        position.has_begun = position.after > 0
        return
    first, last = drafts.bounds(position.stream_id, position.answer_id)
    position.is_finished = last is not None and position.after >= last
    if first is not None:
        position.after = max(position.after, first - 1)
        position.has_begun = True
