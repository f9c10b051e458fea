"""Upcasters: functions that convert the content of an older version of an event type to the next version.

    @registry.upcaster("order.placed", from_version=1)
    def name_the_currency(content):
        return {**content, "currency": "EUR"}

A type's upcasters form a chain without a gap, which ends at the version of the type's class. Versions before the
chain's first one are read as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from petiole.events.errors import InvalidEvent, UsageError

Upcaster: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Takes the content of one version as a JSON object, and returns that of the next version."""


class Upcasters:
    """The upcasters of a registry, by topic and version."""

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[int, Upcaster]] = {}

    def add(self, topic: str, from_version: int, upcaster: Upcaster) -> None:
        """Add an upcaster. Raises UsageError if the version has another one, or is below 1."""
        if from_version < 1:
            raise UsageError(f"{topic}: from_version is {from_version}; versions start at 1")
        chain = self._by_topic.get(topic, {})
        if chain.get(from_version, upcaster) is not upcaster:
            raise UsageError(f"{topic}: version {from_version} has two upcasters; remove one")
        # New dicts for each change, so that readers need no lock.
        self._by_topic = {**self._by_topic, topic: {**chain, from_version: upcaster}}

    def upcast(self, topic: str, document: Mapping[str, object]) -> Mapping[str, object]:
        """Return the JSON object of an event in the chain's last version. Raises InvalidEvent if an upcaster fails."""
        chain = self._by_topic.get(topic)
        version = document.get("schema_version", 1)
        if not chain or not isinstance(version, int) or version not in chain:
            return document
        content: Any = document.get("content")
        while version in chain:
            try:
                content = dict(chain[version](dict(content)))
            except Exception as error:
                raise _failed(topic, version, error) from error
            version += 1
        return {**document, "content": content, "schema_version": version}

    def oldest_version(self, topic: str) -> int | None:
        """Return the version at which the chain of a topic begins; None without one."""
        return min(self._by_topic.get(topic, ()), default=None)

    def problems(self, known_version: Callable[[str], int | None]) -> Iterator[str]:
        """Describe what is wrong with each chain. `known_version` returns the version of a topic's class."""
        for topic, chain in sorted(self._by_topic.items()):
            known = known_version(topic)
            if known is None:
                yield f"{topic}: it has an upcaster, but no class; register its class, or remove the upcaster"
                continue
            missing = sorted(set(range(min(chain), known)) - chain.keys())
            if missing:
                yield f"{topic}: no upcaster from version {missing[0]} to {missing[0] + 1}; add one"
            if max(chain) >= known:
                yield (
                    f"{topic}: there is an upcaster from version {max(chain)}, but its class has version {known}; "
                    f"set schema_version of the class to {max(chain) + 1}"
                )


def _failed(topic: str, version: int, error: Exception) -> InvalidEvent:
    reason = f"could not be converted from version {version} to {version + 1}: {type(error).__name__}; fix the upcaster"
    return InvalidEvent(topic, "content", reason, code="invalid_value")
