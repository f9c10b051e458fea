"""The audio of streams: what is known of it between two chunks, and the PCM that may still be needed.

Promise: of two processes that handle the same stream at the same time, one stores its state, and the other is told.
State and PCM change together. The PCM is bounded: that of the utterance, or of the last moments before speech.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from redis import Redis
from redis.client import NEVER_DECODE

from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys
from petiole.workers.streams.audio_state import AudioState
from petiole.workers.streams.pcm import SAMPLE_BYTES

AUDIO_RETENTION: Final = timedelta(days=1)
_SCRIPTS = "petiole.workers.state.scripts"


class AudioStreams:
    """The audio of streams."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._save = client.register_script(load_script("save_audio_stream", _SCRIPTS))

    def read(self, stream_id: str) -> AudioState:
        """Read the state of a stream; a new one if there is none."""
        text: Any = self._client.hget(self._keys.audio_stream(stream_id), "state")
        return AudioState.model_validate_json(text) if text else AudioState()

    def exists(self, stream_id: str) -> bool:
        """Return whether a stream has had audio."""
        return bool(self._client.exists(self._keys.audio_stream(stream_id)))

    def save(self, stream_id: str, state: AudioState, *, pcm: bytes, dropped_samples: int) -> bool:
        """Store a state, drop PCM at the front, append some; returns False if another process was faster."""
        revision, state.revision = state.revision, state.revision + 1
        arguments: list[str | bytes | int] = [revision, state.model_dump_json(), dropped_samples * SAMPLE_BYTES, pcm]
        keys = [self._keys.audio_stream(stream_id), self._keys.audio_samples(stream_id)]
        speech = [state.speech_starts, int(state.is_speaking)]
        return bool(self._save(keys=keys, args=[*arguments, int(AUDIO_RETENTION.total_seconds()), *speech]))

    def read_speech(self, stream_id: str) -> tuple[int, bool]:
        """Return how often speech has started in a stream, and whether it lasts."""
        starts, lasts = self._client.hmget(self._keys.audio_stream(stream_id), "starts", "lasts")
        return int(starts or 0), lasts == "1"

    def read_pcm(self, stream_id: str, state: AudioState, first: int, last: int) -> bytes:
        """Read the samples [first, last) of a stream, as far as they are kept."""
        start = max(0, first - state.buffer_start) * SAMPLE_BYTES
        end = (last - state.buffer_start) * SAMPLE_BYTES - 1
        if end < start:
            return b""
        key = self._keys.audio_samples(stream_id)
        return bytes(self._client.execute_command("GETRANGE", key, start, end, **{NEVER_DECODE: True}))  # type: ignore[no-untyped-call]  # redis's

    def take_sequence(self, stream_id: str) -> int:
        """Return the next sequence number of a stream, for a sender that does not count its chunks."""
        key = self._keys.audio_sequence(stream_id)
        with self._client.pipeline() as pipe:
            pipe.incr(key)
            pipe.expire(key, AUDIO_RETENTION)
            return int(pipe.execute()[0]) - 1

    def announce_last(self, stream_id: str, sequence: int) -> None:
        """Record, before it is handled, that a chunk ends the stream's audio."""
        key = self._keys.audio_end(stream_id)
        self._client.set(key, sequence, nx=True, ex=int(AUDIO_RETENTION.total_seconds()))

    def announced_last(self, stream_id: str) -> int | None:
        """Return the sequence number of the chunk that ends the stream's audio; None if none was sent."""
        found: Any = self._client.get(self._keys.audio_end(stream_id))
        return None if found is None else int(found)
