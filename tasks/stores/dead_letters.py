"""Dead letters: deliveries that were given up, each with its event and its reason.

Promise: what is put here stays until somebody discards it. One that is put here again, because a replay of it failed,
stands in its own place.
"""

from __future__ import annotations

from typing import Any

from redis import Redis

from events.dead_letter import DeadLetter
from tasks.stores.keys import Keys
from tasks.stores.scripts import script


class DeadLetters:
    """Deliveries given up, oldest first."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._put = client.register_script(script("bury") + script("put_letter"))

    def put(self, letter: DeadLetter) -> None:
        """Keep a dead letter: as pending, or as failed again where it is known."""
        keys = self._keys
        self._put(
            keys=[keys.dead_letters, keys.dead_letter_times, keys.dead_letter_states],
            args=[letter.id, letter.model_dump_json(), letter.buried_ms],
        )

    def resolve(self, letter_id: str) -> None:
        """Note that a replay of a letter was handled."""
        if self._client.hexists(self._keys.dead_letter_states, letter_id):
            self._client.hset(self._keys.dead_letter_states, letter_id, "resolved")

    def all(self) -> list[DeadLetter]:
        """Read every dead letter, oldest first."""
        ids: Any = self._client.zrange(self._keys.dead_letter_times, 0, -1)
        texts = self._client.hmget(self._keys.dead_letters, ids) if ids else []
        return [DeadLetter.model_validate_json(text) for text in texts if text is not None]
