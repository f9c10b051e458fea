"""Directory: all subscriptions, and a log of the latest changes.

Promise: a registered subscription is visible to every publisher that reads after `register` returned. It stays until it
is unregistered, whether or not a worker runs. The version changes with every change, so readers may keep a copy, and
bring it up to date with what changed since its version.

A server may lose the directory: it is emptied, it evicts keys, or an older copy is restored. Workers look for that with
`intact_version`, and `restore` what they had registered; a publisher that reads the directory does so with what it has
read before. A subscription that was unregistered stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

MAX_LOGGED_CHANGES = 1_000
"""Changes that the log keeps."""

MAX_LOGGED_SUBSCRIPTIONS = 100
"""Most subscriptions of a change that is logged. After a larger one, readers read all subscriptions."""


@dataclass(frozen=True, slots=True)
class DirectoryChanges:
    """What a reader of the directory does not have yet.

    Attributes:
        version: the version of the directory that the reader has then.
        is_complete: `subscriptions` are all that there are. Others that the reader knows were lost.
        subscriptions: those that were registered, by name; None: unregistered.
    """

    version: int
    is_complete: bool
    subscriptions: Mapping[str, Subscription | None]


class Directory:
    """Subscriptions by name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._version_key = keys.directory_version
        self._announced_key = keys.directory_announced
        self._keys = [keys.directory, keys.directory_version, keys.directory_changes]
        self._update_script = client.register_script(load_script("update_directory"))
        self._read_script = client.register_script(load_script("read_directory"))

    def register(self, subscriptions: Iterable[Subscription]) -> bool:
        """Add or update subscriptions, in one change. Safe to repeat; returns whether anything changed."""
        return self._update(_texts(subscriptions))

    def restore(self, subscriptions: Iterable[Subscription], known_version: int) -> bool:
        """Add or update subscriptions that were registered at a version, except what was unregistered since.

        Safe to repeat; returns whether anything was lost.
        """
        return self._update(_texts(subscriptions), known_version)

    def intact_version(self, subscriptions: Iterable[Subscription], known_version: int) -> int | None:
        """Return the directory's version; None if a change since a version or one of these subscriptions is missing."""
        with self._client.pipeline(transaction=False) as pipe:
            # The version first: what is lost between the two is seen.
            pipe.get(self._version_key)
            if names := [each.name for each in subscriptions]:
                pipe.hmget(self._keys[0], names)
            version, *texts = pipe.execute()
        version = int(version or 0)
        is_known = version == known_version or not self.read_since(known_version).is_complete
        # An empty text: unregistered.
        return version if is_known and not any(None in found for found in texts) else None

    def unregister(self, name: str) -> bool:
        """Remove a subscription; its queued deliveries stay. Returns whether it existed."""
        return self._update({name: ""})

    def version(self) -> int:
        """Return the directory's version."""
        return int(self._client.get(self._version_key) or 0)

    def announced_ms(self) -> dict[str, int]:
        """Return when subscriptions were registered, in ms since 1970; those that were restored are left out."""
        found: Any = self._client.hgetall(self._announced_key)
        return {name: int(time_ms) for name, time_ms in found.items()}

    def read(self) -> tuple[int, list[Subscription]]:
        """Read the version and all subscriptions, ordered by name, in one step."""
        everything = self.read_since(-1)
        present = [each for _, each in sorted(everything.subscriptions.items()) if each is not None]
        return everything.version, present

    def read_since(self, version: int) -> DirectoryChanges:
        """Read what changed since a version, in one step; -1 reads all."""
        answer: Any = self._read_script(args=[*self._keys, version])
        current, is_complete, *rest = answer
        pairs = zip(rest[::2], rest[1::2], strict=True)
        subscriptions = {name: Subscription.model_validate_json(text) if text else None for name, text in pairs}
        return DirectoryChanges(int(current), bool(is_complete), subscriptions)

    def _update(self, texts: Mapping[str, str], known_version: int | str = "") -> bool:
        args: list[str | int] = [MAX_LOGGED_CHANGES, MAX_LOGGED_SUBSCRIPTIONS, known_version]
        for pair in texts.items():
            args += pair
        return bool(self._update_script(keys=[*self._keys, self._announced_key], args=args))


def _texts(subscriptions: Iterable[Subscription]) -> dict[str, str]:
    return {each.name: each.model_dump_json(exclude_defaults=True) for each in subscriptions}
