"""Response streams: responses as chunks while they are written, for any number of readers.

Promise: chunks of a stream are numbered without gaps in the order in which they were written. Of each response one
attempt can write at a time; its end is written once and no chunk of it follows. An attempt whose writer did not renew
its lease is marked as abandoned by the next reader or the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

ChunkKind = Literal["started", "delta", "finished", "failed", "interrupted", "abandoned"]
StreamEnd = Literal["finished", "failed", "interrupted"]
END_KINDS: Final[frozenset[ChunkKind]] = frozenset({"finished", "failed", "interrupted", "abandoned"})

_FINAL_KINDS: Final[frozenset[ChunkKind]] = frozenset({"finished", "interrupted"})  # no attempt follows these


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a response: its start, some text, or its end.

    `number` increases by one within a stream, across responses; `attempt` numbers the attempts of one response from 1.
    """

    number: int
    answer_id: str
    correlation_id: str
    attempt: int
    kind: ChunkKind
    text: str = ""

    @property
    def is_end(self) -> bool:
        """Whether this attempt has ended."""
        return self.kind in END_KINDS


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Lease of a writer, retention after the last chunk, and number of chunks kept per stream."""

    writer_timeout: timedelta
    retention: timedelta
    max_chunks: int


class ResponseStreams:
    """Chunks of responses, by stream."""

    def __init__(self, client: Redis, keys: Keys, limits: StreamLimits) -> None:
        self._client = client
        self._keys = keys
        self.limits = limits
        self._age_ms = _milliseconds(limits.retention)
        self._lease_ms = _milliseconds(limits.writer_timeout)
        self._begin = client.register_script(load_script("append_chunk") + load_script("begin_response_stream"))
        self._write = client.register_script(load_script("append_chunk") + load_script("write_response_stream"))
        self._abandon = client.register_script(load_script("append_chunk") + load_script("abandon_response_stream"))

    def begin(
        self, stream_id: str, answer_id: str, *, correlation_id: str, token: str, rejects: bool = False
    ) -> tuple[Literal["open", "busy"], str]:
        """Start an attempt. Returns 'open' and its number; with `rejects`, 'busy' and the open response."""
        facts = (answer_id, correlation_id, token, self._lease_ms, self._age_ms, self.limits.max_chunks, int(rejects))
        state, fact = self._begin(keys=self._keys_of(stream_id, answer_id), args=[*facts])
        return state, str(fact)

    def write(self, stream_id: str, answer_id: str, *, token: str, text: str = "", end: StreamEnd | None = None) -> str:
        """Append text, an end, or both; without either only renew the lease. Returns the state of the attempt.

        Nothing is appended if the attempt has ended, or is 'superseded' by another one.
        """
        facts = (answer_id, token, self._lease_ms, self._age_ms, self.limits.max_chunks, text, end or "")
        return str(self._write(keys=self._keys_of(stream_id, answer_id), args=[*facts]))

    def mark_lost(self, stream_id: str) -> None:
        """Mark the attempts of a stream as abandoned whose lease has expired."""
        open_answers: Any = self._client.zrange(self._keys.open_response_streams(stream_id), 0, -1)
        for answer_id in open_answers:
            self._abandon(
                keys=self._keys_of(stream_id, answer_id), args=[answer_id, self._age_ms, self.limits.max_chunks]
            )

    def read(self, stream_id: str, *, after: int, count: int = 500) -> list[Chunk]:
        """Read the chunks after a number, oldest first."""
        found: Any = self._client.xrange(self._keys.response_stream(stream_id), f"({after}-0", "+", count=count)
        return [_parse_chunk(entry, fields) for entry, fields in found]

    def wait(self, stream_id: str, *, after: int, timeout_s: float) -> None:
        """Wait up to `timeout_s` (under 5 s) for a chunk after a number."""
        self._client.xread(self._read_arguments(stream_id, after), count=1, block=_block_ms(timeout_s))

    async def wait_async(self, client: AsyncRedis, stream_id: str, *, after: int, timeout_s: float) -> None:
        """Wait as `wait` does, in an event loop."""
        await client.xread(self._read_arguments(stream_id, after), count=1, block=_block_ms(timeout_s))

    def bounds(self, stream_id: str, answer_id: str) -> tuple[int | None, int | None]:
        """Return the first chunk number of a response, and the last one if it has ended for good; else None."""
        fields: Any = self._client.hmget(
            self._keys.response_stream_state(stream_id, answer_id), "first", "last", "state"
        )
        first, last, state = fields
        return int(first) if first else None, int(last) if state in _FINAL_KINDS else None

    def last_number(self, stream_id: str) -> int:
        """Return the number of the stream's last chunk; 0 if there is none."""
        found: Any = self._client.xrevrange(self._keys.response_stream(stream_id), count=1)
        return _number(found[0][0]) if found else 0

    def _read_arguments(self, stream_id: str, number: int) -> dict[Any, Any]:
        return {self._keys.response_stream(stream_id): f"{number}-0"}

    def _keys_of(self, stream_id: str, answer_id: str) -> list[str]:
        keys = self._keys
        return [
            keys.response_stream(stream_id),
            keys.open_response_streams(stream_id),
            keys.response_stream_state(stream_id, answer_id),
        ]


def _parse_chunk(entry: str, fields: dict[str, Any]) -> Chunk:
    return Chunk(
        _number(entry), fields["answer"], fields["flow"], int(fields["attempt"]), fields["kind"], fields["text"]
    )


def _number(entry: str) -> int:
    return int(entry.partition("-")[0])


def _block_ms(timeout_s: float) -> int:
    return max(1, int(timeout_s * 1_000))  # for Redis, 0 means no limit


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
