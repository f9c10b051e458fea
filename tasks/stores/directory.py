"""Directory: all subscriptions.

Promise: a registered subscription is visible to every publisher that reads after `register` returned. It stays until it
is unregistered, whether or not a worker runs. The version changes with every change, so readers may cache a copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis import Redis

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


class Directory:
    """Subscriptions by name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._register = client.register_script(load_script("register_subscriptions"))

    def register(self, subscriptions: Iterable[Subscription]) -> bool:
        """Add or update subscriptions. Safe to repeat; returns whether anything changed."""
        pairs = [
            text
            for subscription in subscriptions
            for text in (subscription.name, subscription.model_dump_json(exclude_defaults=True))
        ]
        return bool(self._register(keys=[self._keys.directory, self._keys.directory_version], args=pairs))

    def unregister(self, name: str) -> bool:
        """Remove a subscription; its queued deliveries stay. Returns whether it existed."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys.directory, name)
            pipe.incr(self._keys.directory_version)
            removed, _ = pipe.execute()
        return bool(removed)

    def version(self) -> int:
        """Return the directory's version."""
        return int(self._client.get(self._keys.directory_version) or 0)

    def read(self) -> tuple[int, list[Subscription]]:
        """Read the version and all subscriptions by name, in one transaction."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.get(self._keys.directory_version)
            pipe.hvals(self._keys.directory)
            version, values = pipe.execute()
        subscriptions = [Subscription.model_validate_json(value) for value in values]
        return int(version or 0), sorted(subscriptions, key=lambda subscription: subscription.name)
