"""Directory: who subscribed to what.

Promise: an announced subscription is known to every publisher that reads after the announcement returned, and stays
until it is withdrawn, whether or not a worker runs. The version moves with every change, so readers may keep a copy.
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
        self._announce = client.register_script(load_script("register_subscriptions"))

    def register(self, subscriptions: Iterable[Subscription]) -> bool:
        """Make subscriptions known, or known anew; safe to repeat. Returns whether anything changed."""
        pairs = [part for each in subscriptions for part in (each.name, each.model_dump_json(exclude_defaults=True))]
        return bool(self._announce(keys=[self._keys.directory, self._keys.directory_version], args=pairs))

    def unregister(self, name: str) -> bool:
        """Forget a subscription; what already waits in its queue stays there. Returns whether it was known."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys.directory, name)
            pipe.incr(self._keys.directory_version)
            removed, _ = pipe.execute()
        return bool(removed)

    def version(self) -> int:
        """Tell how often the directory changed."""
        return int(self._client.get(self._keys.directory_version) or 0)

    def read(self) -> tuple[int, list[Subscription]]:
        """Read the version and all subscriptions, by name, as of one moment."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.get(self._keys.directory_version)
            pipe.hvals(self._keys.directory)
            version, values = pipe.execute()
        subscriptions = [Subscription.model_validate_json(value) for value in values]
        return int(version or 0), sorted(subscriptions, key=lambda each: each.name)
