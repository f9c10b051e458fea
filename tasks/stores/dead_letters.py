"""Dead letters: deliveries that were given up, each with its event and its reason.

Promise: what is put here stays until somebody discards it.
"""

from __future__ import annotations

from redis import Redis

from events.dead_letter import DeadLetter
from tasks.stores.keys import Keys


class DeadLetters:
    """Deliveries given up, oldest first."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def put(self, letter: DeadLetter) -> None:
        """Keep a dead letter; a second one of the same delivery stands beside the first."""
        self._client.xadd(self._keys.dead_letters, {"letter": letter.model_dump_json()})

    def all(self) -> list[DeadLetter]:
        """Read every dead letter, oldest first."""
        entries = self._client.xrange(self._keys.dead_letters) or []
        return [DeadLetter.model_validate_json(fields["letter"]) for _, fields in entries if fields is not None]
