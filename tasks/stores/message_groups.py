"""Message groups: ordered deliveries that wait until the one before them has ended; and the removal of deliveries.

Deliveries of a removed subscription are deleted, or moved to another subscription.

`scripts/commit.lua` fills the groups; they advance when a delivery ends. This store only empties them.

Promise: after a subscription is removed, none of its deliveries is left in a message group or a queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
        self._reroute = Script(client, "history", "deliveries", "reroute_deliveries")

    def clear(self, subscription: Subscription) -> int:
        """Delete a subscription's waiting deliveries; returns how many."""
        return sum(int(self._clear((self._keys.prefix, group))) for group in self._groups(subscription.name))

    def remove_queued(self, name: str, queue_lists: Iterable[str]) -> int:
        """Delete a subscription's deliveries in these lists; returns how many. Those fetched meanwhile do not count."""
        return sum(self._remove_from(queue_list, name) for queue_list in queue_lists)

    def reroute(self, name: str, queue_lists: Iterable[str], target: Subscription) -> int:
        """Move a subscription's deliveries in these lists, and in its groups, to another one; returns how many."""
        options = (self._keys.prefix, name, target.name, target.queue, int(target.ordered_by is not None))
        moved = 0
        for queue_list in queue_lists:
            first, size = 0, _PAGE_SIZE
            while size == _PAGE_SIZE:
                count, removed, size = self._reroute((*options, queue_list, first, _PAGE_SIZE))
                moved, first = moved + int(count), first + size - removed
        for group in self._groups(name):
            moved += int(self._reroute((*options, "", group, 0))[0])
        return moved

    def queue_lists(self, queue: str) -> list[str]:
        """Return the lists of a queue."""
        return [f"{self._keys.queue(queue)}:{step}" for step in PRIORITY_STEPS]

    def _groups(self, name: str) -> Iterator[str]:
        prefix = self._keys.message_group("")
        for key in self._client.scan_iter(match=f"{prefix}{name}:*", count=1_000):
            yield key.removeprefix(prefix)

    def _remove_from(self, queue_list: str, subscription: str) -> int:
        removed, first = 0, 0
        while True:
            dropped, size = self._remove((self._keys.prefix, queue_list, subscription, first, _PAGE_SIZE))
            removed, first = removed + int(dropped), first + size - dropped
            if size < _PAGE_SIZE:
                return removed
