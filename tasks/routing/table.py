"""Routing: event and subscriptions to an ordered list of deliveries. Pure: it sends nothing.

A subscription gets an event in four steps, and `explain` tells at which of them one stopped:

    pattern     one of its patterns matches the topic
    echo        it names the topic, and not only `*`, or had no hand in the event
    filter      the event meets the conditions of `where`
    split       of the variants of a split, it is the one that the event's stream belongs to
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
"""Topics whose subscriptions a table looks up once."""


class Route(NamedTuple):
    """One event's way to one subscription; publishing the event again gives the same id.

    `priority` is 0 to 9, 9 first on every broker; a delivery that is not begun by `expires_at` is not handled.
    """

    delivery_id: str
    subscription: Subscription
    priority: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a subscription gets an event or does not: the step that decided, and the reason in words."""

    subscription: Subscription
    step: RoutingStep
    reason: str

    @property
    def is_delivered(self) -> bool:
        """The event goes to this subscription."""
        return self.step == "delivered"


class RoutingTable:
    """The subscriptions of one version of the directory, ready to be matched."""

    def __init__(self, subscriptions: Iterable[Subscription], version: int = 0) -> None:
        self.version = version
        self._by_name = {each.name: each for each in subscriptions}
        self._trie: TopicTrie[str] = TopicTrie()
        self._naming: TopicTrie[str] = TopicTrie()
        self._shares = {
            split: traffic_split.bucket_counts(traffic_split.variant_weights(members))
            for split, members in self._splits().items()
        }
        for name, each in self._by_name.items():
            for pattern in each.patterns:
                self._trie.add(pattern, name)
                if pattern != ALL_TOPICS:
                    self._naming.add(pattern, name)
        # A table never changes, and most events are of few topics.
        self._matching = lru_cache(TOPIC_CACHE_SIZE)(self._find_subscriptions)

    def get(self, name: str) -> Subscription | None:
        """Look a subscription up by its name."""
        return self._by_name.get(name)

    def all(self) -> list[Subscription]:
        """List all subscriptions."""
        return list(self._by_name.values())

    def routes(self, event: Event, read: Callable[[], Document] | None = None) -> list[Route]:
        """List the deliveries of an event, by subscription name; each subscription once.

        `read` gives the event as a JSON object, where it is at hand; it is called once a filter looks into it.
        """
        looked_at = _LazyEvent(event, read)
        heard = [each for each in self._matching(event.event_type) if self._find_refusal(looked_at, each) is None]
        chosen = self._choose_variants(event.stream_id, heard)
        reached = [each for each in heard if _is_chosen(each, chosen)]
        ids = delivery_ids(event.event_id, (each.name for each in reached))
        return [_route(event, each, name) for each, name in zip(reached, ids, strict=True)]

    def explain(self, event: Event) -> list[Explanation]:
        """Tell for every subscription, by name, why it gets an event or does not."""
        looked_at = _LazyEvent(event)
        matching = self._matching(event.event_type)
        refusals = {each.name: self._find_refusal(looked_at, each) for each in matching}
        chosen = self._choose_variants(event.stream_id, [each for each in matching if refusals[each.name] is None])
        return [
            Explanation(
                each, *(refusals.get(name, _explain_unmatched(event)) or _explain_delivered(event, each, chosen))
            )
            for name, each in sorted(self._by_name.items())
        ]

    def _find_subscriptions(self, topic: str) -> Sequence[Subscription]:
        return [self._by_name[name] for name in sorted(self._trie.match(topic))]

    def _find_refusal(self, lazy_event: _LazyEvent, subscription: Subscription) -> tuple[RoutingStep, str] | None:
        if self._is_echo(lazy_event.event, subscription):
            path = " > ".join(lazy_event.event.path)
            return "echo", f"it hears everything, and {subscription.agent!r} had a hand in this event: {path}"
        # Asked first whether there are conditions: most subscriptions have none, and the document is not free.
        unmet = filters.find_unmet_condition(subscription.where, lazy_event.document) if subscription.where else None
        return ("filter", str(unmet)) if unmet else None

    def _is_echo(self, event: Event, subscription: Subscription) -> bool:
        """Tell whether the event would come back to a subscriber to everything that had a hand in it.

        Who names its topics means them; who says `*` does not mean its own voice, nor what others say because of it.
        """
        if subscription.agent not in event.path or ALL_TOPICS not in subscription.patterns:
            return False
        return subscription.name not in self._naming.match(event.event_type)

    def _choose_variants(self, stream_id: str, subscriptions: Iterable[Subscription]) -> Mapping[Split, str]:
        """Choose the variant of each split that hears the event; shadows are heard beside them."""
        hearing: defaultdict[Split, set[str]] = defaultdict(set)
        for split, each in _variants(subscriptions):
            hearing[split].add(str(each.variant))
        return {
            split: traffic_split.choose(split[1], self._shares[split], variants, stream_id)
            for split, variants in hearing.items()
        }

    def _splits(self) -> Mapping[Split, Sequence[Subscription]]:
        members: defaultdict[Split, list[Subscription]] = defaultdict(list)
        for split, each in _variants(self._by_name.values()):
            members[split].append(each)
        return members


class _LazyEvent:
    """An event with its JSON object, which is made only once a filter looks into it."""

    def __init__(self, event: Event, read: Callable[[], Document] | None = None) -> None:
        self.event = event
        self._read = read

    @cached_property
    def document(self) -> Document:
        return self._read() if self._read else self.event.model_dump(mode="json")


def _variants(subscriptions: Iterable[Subscription]) -> Iterator[tuple[Split, Subscription]]:
    for each in subscriptions:
        if each.split is not None and not each.shadow:
            yield (each.agent, each.split), each


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
    said = f"{patterns} matches" if len(subscription.patterns) == 1 else f"one of {patterns} matches"
    if subscription.where:
        said += ", and so does its filter"
    if subscription.shadow:
        return "delivered", f"{said}; a shadow: what it says is not published"
    if subscription.split is None:
        return "delivered", said
    variant = chosen[subscription.agent, subscription.split]
    place = f"bucket {traffic_split.bucket(subscription.split, event.stream_id):,} of split {subscription.split!r}"
    belongs = f"stream {event.stream_id!r} is in {place}: variant {variant!r}"
    return ("delivered", f"{said}; {belongs}") if variant == subscription.variant else ("split", belongs)
