"""Read a response while it is being written.

    for chunk in read_answer(stream_id, answer_id):                # ends with the response
    async for chunk in read_answer.aio(stream_id, answer_id):
    for chunk in read_answer.all(stream_id, after=chunk.number):   # all responses of the stream, one after the other

A response's id is that of its `orchestrator.llm.requested` event. Chunks are numbered. A reader that resumes gives
`after=` its last number and gets exactly the rest; without `after`, it gets the response from the start.

Reading ends when an attempt ends: finished, failed, interrupted, or abandoned (its writer crashed), unless a newer
attempt has already started. A `started` chunk with a higher `attempt` means that the text starts again. After
`abandoned` or `failed`, a reader may continue reading: the delivery may be retried.

Without the state store a reader waits, as for a silent writer, and continues where it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.arguments import checks_arguments
from petiole.events.content import Count, Text
from petiole.events.errors import StreamTimeout, StreamTruncated
from petiole.events.ids import StreamId
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.response_streams import Chunk, ResponseStreams

__all__ = ["Chunk", "ResponseStreamReader"]

_Timeout = Annotated[float, Field(ge=0)]
DEFAULT_SILENCE_TIMEOUT_S = 60.0
READ_SLICE_S = 0.5
"""How long a reader waits at a time, and how often it checks whether the writer is alive."""


@dataclass(frozen=True, slots=True)
class ResponseStreamReader:
    """The object behind `read_answer`: reads responses of one bus."""

    bus: BusRuntime

    @checks_arguments(stream_id=StreamId, answer_id=Text, after=Count, timeout=_Timeout)
    def __call__(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> Iterator[Chunk]:
        """Read a response until its last attempt ends.

        Args:
            stream_id: The stream of the conversation.
            answer_id: The id of the response.
            after: The number of the last chunk that the reader has; 0 for none.
            timeout: The longest time without a chunk, in seconds.

        Raises:
            StreamTimeout: No chunk arrived within `timeout`.
            StreamTruncated: The chunks after `after` have been deleted.
            BrokerUnavailable, StateStoreUnavailable: The state store did not answer for `timeout`.
        """
        return self._read(_ReadPosition(stream_id, answer_id, after, timeout))

    @checks_arguments(stream_id=StreamId, after=Count, timeout=_Timeout)
    def all(self, stream_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S) -> Iterator[Chunk]:
        """Read all responses of a stream, and wait for more. Raises as `__call__`."""
        return self._read(_ReadPosition(stream_id, None, after, timeout))

    @checks_arguments(stream_id=StreamId, answer_id=Text, after=Count, timeout=_Timeout)
    def aio(
        self, stream_id: str, answer_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> AsyncIterator[Chunk]:
        """As `__call__`, in an asyncio event loop. Uses one connection."""
        return self._read_async(_ReadPosition(stream_id, answer_id, after, timeout))

    @checks_arguments(stream_id=StreamId, after=Count, timeout=_Timeout)
    def all_aio(
        self, stream_id: str, *, after: int = 0, timeout: float = DEFAULT_SILENCE_TIMEOUT_S
    ) -> AsyncIterator[Chunk]:
        """As `all`, in an asyncio event loop. Uses one connection."""
        return self._read_async(_ReadPosition(stream_id, None, after, timeout))

    def _read(self, position: _ReadPosition) -> Iterator[Chunk]:
        while True:
            yield from position.select(self._read_available(position))
            if position.is_finished:
                return
            wait_s = self._remaining_wait_s(position)
            if position.outage is None:
                with _noting_outage(position):
                    self.bus.stores.response_streams.wait(position.stream_id, after=position.after, timeout_s=wait_s)
            else:
                time.sleep(wait_s)

    async def _read_async(self, position: _ReadPosition) -> AsyncIterator[Chunk]:
        streams = self.bus.stores.response_streams
        async with self.bus.connect_async() as client:
            while True:
                for chunk in position.select(await asyncio.to_thread(self._read_available, position)):
                    yield chunk
                if position.is_finished:
                    return
                wait_s = self._remaining_wait_s(position)
                if position.outage is None:
                    with _noting_outage(position):
                        await streams.wait_async(client, position.stream_id, after=position.after, timeout_s=wait_s)
                else:
                    await asyncio.sleep(wait_s)

    def _read_available(self, position: _ReadPosition) -> Sequence[Chunk]:
        """Read the next chunks; none if the state store does not answer. Raises StreamTruncated."""
        with _noting_outage(position):
            chunks = _read_next(self.bus.stores.response_streams, position)
            position.outage = None
            return chunks
        return ()

    def _remaining_wait_s(self, position: _ReadPosition) -> float:
        """Return how long to wait for the next chunk. Raises StreamTimeout, or the outage that lasted as long."""
        try:
            return position.remaining_wait_s()
        except StreamTimeout:
            if position.outage is None:
                raise
            raise self.bus.outage("reading a response", position.outage) from position.outage


@dataclass(slots=True)
class _ReadPosition:
    """A reader's position. `answer_id` is None if it reads all responses of the stream."""

    stream_id: str
    answer_id: str | None
    after: int
    timeout_s: float
    is_finished: bool = False
    has_begun: bool = False
    checked_at: float = float("-inf")
    last_chunk_at: float = field(default_factory=time.monotonic)
    outage: Exception | None = None

    def select(self, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks of the requested response, and advance the position."""
        for chunk in chunks:
            self.after = chunk.number
            if self.answer_id in (None, chunk.answer_id):
                self.last_chunk_at = time.monotonic()
                self.is_finished = self.answer_id is not None and chunk.is_end
                yield chunk

    def remaining_wait_s(self) -> float:
        """Return how long to wait for the next chunk, in seconds. Raises StreamTimeout."""
        left_s = self.last_chunk_at + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise StreamTimeout(self.stream_id, self.timeout_s, self.after)
        return min(READ_SLICE_S, left_s)


@contextmanager
def _noting_outage(position: _ReadPosition) -> Iterator[None]:
    """End the block at an error of a state store that does not answer; the position has the error."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OutOfMemoryError) as error:
        position.outage = error


def _read_next(streams: ResponseStreams, position: _ReadPosition) -> Sequence[Chunk]:
    """Read the next chunks, and mark responses as lost whose writers died. Raises StreamTruncated."""
    if time.monotonic() - position.checked_at >= READ_SLICE_S:
        # First: a full store refuses the check, and the next call reads.
        position.checked_at = time.monotonic()
        streams.mark_lost(position.stream_id)
    if not position.has_begun:
        _seek_start(streams, position)
    chunks = streams.read(position.stream_id, after=position.after)
    if chunks and position.has_begun and chunks[0].number > position.after + 1:
        raise StreamTruncated(position.stream_id, position.after + 1, chunks[0].number)
    position.has_begun = position.has_begun or bool(chunks)
    return chunks


def _seek_start(streams: ResponseStreams, position: _ReadPosition) -> None:
    """Move to the start of the response, unless the position is already past it."""
    if position.answer_id is None:
        position.has_begun = position.after > 0
        return
    first, last = streams.bounds(position.stream_id, position.answer_id)
    position.is_finished = last is not None and position.after >= last
    if first is not None:
        position.after = max(position.after, first - 1)
        position.has_begun = True
