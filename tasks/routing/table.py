"""Routing table: list the deliveries of an event for a set of subscriptions. Pure: it sends nothing.

A subscription gets an event if four checks pass, in this order; `explain` names the check that failed:

    pattern     one of its patterns matches the topic
    echo        a pattern other than `*` matches, or its agent did not take part in causing the event
    filter      the event meets the conditions of `where`
    split       the event's stream belongs to its variant of the traffic split
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

from petiole.events.event import Event
from petiole.events.ids import delivery_ids
from petiole.events.subscriptions import Subscription
from petiole.events.topics import ALL_TOPICS, TopicTrie
from petiole.tasks.routing import filters, traffic_split
from petiole.tasks.routing.filters import Document

RoutingStep = Literal["pattern", "echo", "filter", "split", "delivered"]
Split: TypeAlias = tuple[str, str]

TOPIC_CACHE_SIZE = 1_000
"""Topics for which a table caches the matching subscriptions."""


class Route(NamedTuple):
    """The delivery of one event to one subscription; publishing the event again gives the same id.

    `priority` is 0 to 9; 9 is first on every broker. A delivery that has not started by `expires_at` is not handled.
    """

    delivery_id: str
    subscription: Subscription
    priority: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a subscription gets an event or does not: the deciding check, and the reason as text."""

    subscription: Subscription
    step: RoutingStep
    reason: str

    @property
    def is_delivered(self) -> bool:
        """Whether the subscription gets the event."""
        return self.step == "delivered"


class RoutingTable:
    """The subscriptions of one version of the directory, indexed by pattern."""

    def __init__(self, subscriptions: Iterable[Subscription], version: int = 0) -> None:
        self.version = version
        self._by_name = {subscription.name: subscription for subscription in subscriptions}
        self._trie: TopicTrie[str] = TopicTrie()
        self._specific_trie: TopicTrie[str] = TopicTrie()
        self._shares = {
            split: traffic_split.bucket_counts(traffic_split.variant_weights(members))
            for split, members in self._splits().items()
        }
        for name, subscription in self._by_name.items():
            for pattern in subscription.patterns:
                self._trie.add(pattern, name)
                if pattern != ALL_TOPICS:
                    self._specific_trie.add(pattern, name)
        # The cache is never stale, since a table does not change. Most events have one of few topics.
        self._matching = lru_cache(TOPIC_CACHE_SIZE)(self._find_subscriptions)

    def get(self, name: str) -> Subscription | None:
        """Find a subscription by its name."""
        return self._by_name.get(name)

    def all(self) -> list[Subscription]:
        """List all subscriptions."""
        return list(self._by_name.values())

    def routes(self, event: Event, read: Callable[[], Document] | None = None) -> list[Route]:
        """List the deliveries of an event, one per subscription, ordered by name.

        Args:
            event: the event.
            read: returns the event's JSON object if the caller has one; called only if a filter needs it.
        """
        lazy_event = _LazyEvent(event, read)
        matching = self._matching(event.event_type)
        accepting = [candidate for candidate in matching if self._find_refusal(lazy_event, candidate) is None]
        chosen = self._choose_variants(event.stream_id, accepting)
        subscribers = [candidate for candidate in accepting if _is_chosen(candidate, chosen)]
        ids = delivery_ids(event.event_id, (subscriber.name for subscriber in subscribers))
        return [_route(event, *pair) for pair in zip(subscribers, ids, strict=True)]

    def explain(self, event: Event) -> list[Explanation]:
        """Explain for every subscription, ordered by name, why it gets an event or does not."""
        lazy_event = _LazyEvent(event)
        matching = self._matching(event.event_type)
        refusals = {candidate.name: self._find_refusal(lazy_event, candidate) for candidate in matching}
        accepting = [candidate for candidate in matching if refusals[candidate.name] is None]
        chosen = self._choose_variants(event.stream_id, accepting)
        unmatched = _explain_unmatched(event)
        return [
            Explanation(
                subscription, *(refusals.get(name, unmatched) or _explain_delivered(event, subscription, chosen))
            )
            for name, subscription in sorted(self._by_name.items())
        ]

    def _find_subscriptions(self, topic: str) -> Sequence[Subscription]:
        return [self._by_name[name] for name in sorted(self._trie.match(topic))]

    def _find_refusal(self, lazy_event: _LazyEvent, subscription: Subscription) -> tuple[RoutingStep, str] | None:
        if self._is_echo(lazy_event.event, subscription):
            path = " > ".join(lazy_event.event.path)
            return "echo", f"it subscribes to all topics, and {subscription.agent!r} took part in this event: {path}"
        # Most subscriptions have no conditions, and building the document is not free.
        unmet = filters.find_unmet_condition(subscription.where, lazy_event.document) if subscription.where else None
        return ("filter", str(unmet)) if unmet else None

    def _is_echo(self, event: Event, subscription: Subscription) -> bool:
        """Return whether a subscriber to `*` would get an event that its own agent took part in causing.

        An agent that subscribes to all topics does not want its own events or those that result from them. A pattern
        that names the topic is explicit, so it always counts.
        """
        if subscription.agent not in event.path or ALL_TOPICS not in subscription.patterns:
            return False
        return subscription.name not in self._specific_trie.match(event.event_type)

    def _choose_variants(self, stream_id: str, subscriptions: Iterable[Subscription]) -> Mapping[Split, str]:
        """Choose the variant of each split that gets the event; shadow handlers get it, too."""
        candidates: defaultdict[Split, set[str]] = defaultdict(set)
        for split, subscription in _variants(subscriptions):
            candidates[split].add(str(subscription.variant))
        return {
            split: traffic_split.choose(split[1], self._shares[split], variants, stream_id)
            for split, variants in candidates.items()
        }

    def _splits(self) -> Mapping[Split, Sequence[Subscription]]:
        members: defaultdict[Split, list[Subscription]] = defaultdict(list)
        for split, subscription in _variants(self._by_name.values()):
            members[split].append(subscription)
        return members


class _LazyEvent:
    """An event whose JSON object is built when a filter first needs it."""

    def __init__(self, event: Event, read: Callable[[], Document] | None = None) -> None:
        self.event = event
        self._read = read

    @cached_property
    def document(self) -> Document:
        return self._read() if self._read else self.event.model_dump(mode="json")


def _variants(subscriptions: Iterable[Subscription]) -> Iterator[tuple[Split, Subscription]]:
    for subscription in subscriptions:
        if subscription.split is not None and not subscription.shadow:
            yield (subscription.agent, subscription.split), subscription


def _is_chosen(subscription: Subscription, chosen: Mapping[Split, str]) -> bool:
    if subscription.split is None or subscription.shadow:
        return True
    return chosen[subscription.agent, subscription.split] == subscription.variant


def _route(event: Event, subscription: Subscription, delivery_id: str) -> Route:
    return Route(
        delivery_id=delivery_id,
        subscription=subscription,
        priority=event.priority if subscription.priority is None else subscription.priority,
        expires_at=subscription.expires_at(event),
    )


def _explain_unmatched(event: Event) -> tuple[RoutingStep, str]:
    return "pattern", f"none of its patterns matches {event.event_type}"


def _explain_delivered(
    event: Event, subscription: Subscription, chosen: Mapping[Split, str]
) -> tuple[RoutingStep, str]:
    patterns = " ".join(subscription.patterns)
    reason = f"{patterns} matches" if len(subscription.patterns) == 1 else f"one of {patterns} matches"
    if subscription.where:
        reason += ", and so does its filter"
    if subscription.shadow:
        return "delivered", f"{reason}; a shadow: its events are not published"
    if subscription.split is None:
        return "delivered", reason
    variant = chosen[subscription.agent, subscription.split]
    place = f"bucket {traffic_split.bucket(subscription.split, event.stream_id):,} of split {subscription.split!r}"
    belongs = f"stream {event.stream_id!r} is in {place}: variant {variant!r}"
    return ("delivered", f"{reason}; {belongs}") if variant == subscription.variant else ("split", belongs)
