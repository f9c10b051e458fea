"""Routing: event and subscriptions to an ordered list of deliveries. Pure: it sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from events.event import Event
from events.ids import delivery_ids
from events.subscriptions import Subscription
from events.topics import EVERYTHING, TopicTrie


@dataclass(frozen=True, slots=True)
class Route:
    """One event's way to one subscription; publishing the event again gives the same id."""

    delivery_id: str
    subscription: Subscription


class RoutingTable:
    """The subscriptions of one version of the directory, ready to be matched."""

    def __init__(self, subscriptions: Iterable[Subscription], version: int = 0) -> None:
        self.version = version
        self._by_name = {each.name: each for each in subscriptions}
        self._trie: TopicTrie[str] = TopicTrie()
        self._everything_only = {name for name, each in self._by_name.items() if set(each.patterns) == {EVERYTHING}}
        for name, each in self._by_name.items():
            for pattern in each.patterns:
                self._trie.add(pattern, name)

    def routes(self, event: Event) -> list[Route]:
        """List the deliveries of an event, by subscription name; each subscription once."""
        names = sorted(name for name in self._trie.match(event.event_type) if not self._echoes(event, name))
        ids = delivery_ids(event.event_id, names)
        return [Route(each, self._by_name[name]) for each, name in zip(ids, names, strict=True)]

    def _echoes(self, event: Event, name: str) -> bool:
        """Tell whether the event would come back to a subscriber to everything that had a hand in it.

        Who names its topics means them; who says `*` does not mean its own voice, nor what others say because of it.
        """
        return name in self._everything_only and self._by_name[name].agent in event.path
