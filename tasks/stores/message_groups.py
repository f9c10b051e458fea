"""Mailboxes: ordered deliveries that wait for their turn.

They are filled and go on in the publication's own step (scripts/commit.lua); here they are emptied.

Promise: after a subscription was withdrawn, nothing of it is left in its mailboxes.
"""

from __future__ import annotations

from redis import Redis

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.keys import Keys


class MessageGroups:
    """Deliveries that wait, per ordered subscription and key."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def clear(self, subscription: Subscription) -> int:
        """Remove what waits in a subscription's mailboxes; returns how many deliveries that were."""
        removed = 0
        for key in self._client.scan_iter(match=self._keys.message_group(f"{subscription.name}:*"), count=1_000):
            if not str(key).endswith(":head"):
                removed += self._client.llen(key)
            self._client.delete(key)
        self._client.hincrby(self._keys.message_group_counts, subscription.queue, -removed)
        return removed
