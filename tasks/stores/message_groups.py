"""Message groups: ordered deliveries that wait until the one before them is settled.

`scripts/commit.lua` fills and advances them; this store only empties them.

Promise: after a subscription is removed, none of its deliveries is left in a message group.
"""

from __future__ import annotations

from redis import Redis

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.keys import Keys


class MessageGroups:
    """Waiting deliveries, per ordered subscription and ordering key."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def clear(self, subscription: Subscription) -> int:
        """Delete a subscription's waiting deliveries; returns how many."""
        removed = 0
        for key in self._client.scan_iter(match=self._keys.message_group(f"{subscription.name}:*"), count=1_000):
            # A group's name may itself end like the key of its active delivery: only the type tells them apart.
            if self._client.type(key) == "list":
                removed += self._client.llen(key)
            self._client.delete(key)
        self._client.hincrby(self._keys.message_group_counts, subscription.queue, -removed)
        return removed
