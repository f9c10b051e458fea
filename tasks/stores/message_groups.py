"""Message groups: ordered deliveries that wait until the one before them has ended; and the removal of deliveries.

`scripts/commit.lua` fills the groups; they advance when a delivery ends. This store only empties them.

Promise: after a subscription is removed, none of its deliveries is left in a message group or a queue.
"""

from __future__ import annotations

from redis import Redis

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.deliveries import PRIORITY_STEPS
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import Script

_PAGE_SIZE = 500


class MessageGroups:
    """Waiting deliveries, per ordered subscription and ordering key."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._clear = Script(client, "history", "deliveries", "clear_message_group")
        self._remove = Script(client, "history", "deliveries", "remove_deliveries")

    def clear(self, subscription: Subscription) -> int:
        """Delete a subscription's waiting deliveries; returns how many."""
        groups = self._client.scan_iter(match=self._keys.message_group(f"{subscription.name}:*"), count=1_000)
        prefix = self._keys.message_group("")
        return sum(int(self._clear((self._keys.prefix, key.removeprefix(prefix)))) for key in groups)

    def remove_queued(self, subscription: Subscription) -> int:
        """Delete a subscription's queued deliveries; returns how many. Those fetched meanwhile are not counted."""
        return sum(
            self._remove_from(f"{self._keys.queue(subscription.queue)}:{step}", subscription.name)
            for step in PRIORITY_STEPS
        )

    def _remove_from(self, queue_list: str, subscription: str) -> int:
        removed, first = 0, 0
        while True:
            dropped, size = self._remove((self._keys.prefix, queue_list, subscription, first, _PAGE_SIZE))
            removed, first = removed + int(dropped), first + size - dropped
            if size < _PAGE_SIZE:
                return removed
