"""Scenes: the first frame of the current scene of each video stream, as a thumbnail.

Promise: kept for an hour after the last scene began. Two workers that compare two frames with the same scene at the
same time may each store theirs; both know which scene came before.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from redis import Redis

from petiole.workers.state.keys import StateKeys

SCENE_RETENTION: Final = timedelta(hours=1)


class Scene(BaseModel):
    """A scene: its first frame, how much that differs from the scene before, and which scene that was."""

    model_config = ConfigDict(frozen=True)

    sequence: int
    thumbnail: str
    difference: float = 0.0
    previous_sequence: int | None = None


class Scenes:
    """The current scene by stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def read(self, stream_id: str) -> Scene | None:
        """Read the current scene of a stream; None before the first frame."""
        text: Any = self._client.get(self._keys.scene(stream_id))
        return Scene.model_validate_json(text) if text else None

    def take_sequence(self, stream_id: str) -> int:
        """Return the next sequence number of a stream, for a sender that does not count its frames."""
        key = self._keys.video_sequence(stream_id)
        with self._client.pipeline() as pipe:
            pipe.incr(key)
            # After the scene, which would be newer than every frame of a count that starts again.
            pipe.expire(key, 2 * SCENE_RETENTION)
            return int(pipe.execute()[0]) - 1

    def put(self, stream_id: str, scene: Scene) -> None:
        """Begin a scene."""
        self._client.set(self._keys.scene(stream_id), scene.model_dump_json(), ex=SCENE_RETENTION)
