"""Routing table: list the deliveries of an event for a set of subscriptions. Pure: it sends nothing.

A subscription gets an event if four checks pass, in this order; `explain` names the check that failed:

    pattern     one of its patterns matches the topic
    echo        a pattern other than `*` matches, or its agent did not take part in causing the event
    filter      the event meets the conditions of `where`
    split       the event's stream belongs to its variant of the traffic split
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from petiole.events.event import Event
from petiole.events.ids import delivery_ids
from petiole.events.subscriptions import Subscription
from petiole.events.topics import ALL_TOPICS, list_matching_patterns
from petiole.tasks.routing import filters, traffic_split
from petiole.tasks.routing.filters import Document
from petiole.tasks.routing.index import PatternIndex, Subscriptions

RoutingStep = Literal["pattern", "echo", "filter", "split", "delivered"]
Split: TypeAlias = tuple[str, str]

TOPIC_CACHE_SIZE = 1_000
"""Topics for which a table keeps a plan."""


class Route(NamedTuple):
    """The delivery of one event to one subscription.

    `name` is the subscription's. `priority` is 0 to 9; 9 is first on every broker. A delivery that has not started by
    `expires_at` is not handled.
    """

    event_id: str
    name: str
    subscription: Subscription
    priority: int
    expires_at: datetime | None

    @property
    def delivery_id(self) -> str:
        """The id of the delivery, derived when it is asked for. Publishing the event again gives the same."""
        return delivery_ids(self.event_id, (self.name,))[0]


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
    """The subscriptions of one version of the directory, indexed by pattern and filter.

    A table is never changed, so threads may share it: `updated` makes another, which shares the unchanged parts.
    """

    def __init__(self, subscriptions: Iterable[Subscription], version: int = 0) -> None:
        self.version = version
        self._by_name: Subscriptions = {}
        self._by_pattern: Mapping[str, PatternIndex] = {}
        self._variants: Mapping[Split, Subscriptions] = {}
        self._shares: Mapping[Split, Mapping[str, int]] = {}
        self._plans: dict[str, _Plan] = {}
        self._apply({subscription.name: subscription for subscription in subscriptions})

    def updated(self, version: int, changes: Mapping[str, Subscription | None]) -> RoutingTable:
        """Return the table of a newer version of the directory.

        Args:
            version: the version.
            changes: the subscriptions that were registered since this table's version, by name; None: unregistered.
        """
        table = copy.copy(self)
        table.version = version
        if changes:
            table._apply(changes)  # noqa: SLF001 - of the same class, before anyone sees it
        return table

    def get(self, name: str) -> Subscription | None:
        """Find a subscription by its name."""
        return self._by_name.get(name)

    def all(self) -> list[Subscription]:
        """List all subscriptions, ordered by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def routes(self, event: Event, read: Callable[[], Document] | None = None) -> list[Route]:
        """List the deliveries of an event, one per subscription, ordered by name.

        Args:
            event: the event.
            read: returns the event's JSON object if the caller has one; called only if a filter needs it.
        """
        plan = self._plans.get(event.event_type) or self._plan(event.event_type)
        candidates = plan.unfiltered
        if plan.filtered:
            found = _find_filtered(plan, _LazyEvent(event, read).document)
            candidates = sorted([*candidates, *found]) if found else candidates
        if plan.has_echo and event.path:
            candidates = [each for each in candidates if not _is_echo(event, each.subscription, plan.patterns)]
        if self._variants:
            candidates = self._without_other_variants(event.stream_id, candidates)
        event_id, priority, expires_at = event.event_id, event.priority, event.expires_at
        return [
            Route(
                event_id,
                name,
                subscription,
                priority if own_priority is None else own_priority,
                subscription.expires_at(event) if expires or expires_at else None,
            )
            for name, subscription, own_priority, expires in candidates
        ]

    def explain(self, event: Event) -> list[Explanation]:
        """Explain for every subscription, ordered by name, why it gets an event or does not."""
        lazy_event = _LazyEvent(event)
        patterns = frozenset(list_matching_patterns(event.event_type))
        refusals = {name: _find_refusal(lazy_event, each, patterns) for name, each in self._by_name.items()}
        accepting = [self._by_name[name] for name, refusal in refusals.items() if refusal is None]
        chosen = self._choose_variants(event.stream_id, accepting)
        return [
            Explanation(subscription, *(refusals[name] or _explain_delivered(event, subscription, chosen)))
            for name, subscription in sorted(self._by_name.items())
        ]

    def _plan(self, topic: str) -> _Plan:
        """Find what all events of a topic have in common."""
        patterns = frozenset(list_matching_patterns(topic))
        indexes = {pattern: self._by_pattern[pattern] for pattern in patterns if pattern in self._by_pattern}
        unfiltered = {name: each for index in indexes.values() for name, each in index.unfiltered.items()}
        plan = _Plan(
            patterns,
            unfiltered=[_candidate(name, unfiltered[name]) for name in sorted(unfiltered)],
            filtered=[index for index in indexes.values() if index.has_filters],
            has_echo=ALL_TOPICS in indexes,
        )
        if len(self._plans) >= TOPIC_CACHE_SIZE:
            self._plans.clear()
        self._plans[topic] = plan
        return plan

    def _without_other_variants(self, stream_id: str, candidates: Sequence[_Candidate]) -> Sequence[_Candidate]:
        chosen = self._choose_variants(stream_id, [candidate.subscription for candidate in candidates])
        return [each for each in candidates if _is_chosen(each.subscription, chosen)] if chosen else candidates

    def _choose_variants(self, stream_id: str, subscriptions: Iterable[Subscription]) -> Mapping[Split, str]:
        """Choose the variant of each split that gets the event; shadow handlers get it, too."""
        candidates: defaultdict[Split, set[str]] = defaultdict(set)
        for subscription in subscriptions:
            if (split := _split_of(subscription)) is not None:
                candidates[split].add(str(subscription.variant))
        return {
            split: traffic_split.choose(split[1], self._shares[split], variants, stream_id)
            for split, variants in candidates.items()
        }

    def _apply(self, changes: Mapping[str, Subscription | None]) -> None:
        """Replace the parts that the changes touch; other tables may share the present ones."""
        removed = {name: self._by_name[name] for name in changes if name in self._by_name}
        added = {name: subscription for name, subscription in changes.items() if subscription is not None}
        self._by_name = _updated(self._by_name, removed, added)
        self._by_pattern = self._update_indexes(removed, added)
        self._variants, self._shares = self._update_splits(removed, added)
        self._plans = {}

    def _update_indexes(self, removed: Subscriptions, added: Subscriptions) -> Mapping[str, PatternIndex]:
        old, new = (_group(subscriptions, _patterns_of) for subscriptions in (removed, added))
        indexes = dict(self._by_pattern)
        for pattern in old.keys() | new.keys():
            index = indexes.get(pattern, PatternIndex()).updated(old.get(pattern, {}), new.get(pattern, {}))
            indexes[pattern] = index
            if index.is_empty:
                del indexes[pattern]
        return indexes

    def _update_splits(
        self, removed: Subscriptions, added: Subscriptions
    ) -> tuple[Mapping[Split, Subscriptions], Mapping[Split, Mapping[str, int]]]:
        old, new = (_group(subscriptions, _splits_of) for subscriptions in (removed, added))
        variants, shares = dict(self._variants), dict(self._shares)
        for split in old.keys() | new.keys():
            members = _updated(variants.get(split, {}), old.get(split, {}), new.get(split, {}))
            variants[split] = members
            weights = traffic_split.variant_weights(members[name] for name in sorted(members))
            shares[split] = traffic_split.bucket_counts(weights)
            if not members:
                del variants[split], shares[split]
        return variants, shares


class _Candidate(NamedTuple):
    """A subscription that gets an event unless the event's path or its stream excludes it."""

    name: str
    subscription: Subscription
    priority: int | None
    expires: bool


class _Plan(NamedTuple):
    """The routing of all events of a topic, as far as it does not depend on the event."""

    patterns: frozenset[str]
    unfiltered: Sequence[_Candidate]
    filtered: Sequence[PatternIndex]
    has_echo: bool


def _candidate(name: str, subscription: Subscription) -> _Candidate:
    return _Candidate(name, subscription, subscription.priority, subscription.expires is not None)


def _find_filtered(plan: _Plan, document: Document) -> list[_Candidate]:
    """Find the subscriptions whose filter an event meets. One with several matching patterns is found once."""
    found = {name: subscription for index in plan.filtered for name, subscription in index.find(document)}
    return [_candidate(name, subscription) for name, subscription in found.items()]


def _updated(present: Subscriptions, removed: Subscriptions, added: Subscriptions) -> Subscriptions:
    subscriptions = dict(present)
    for name in removed:
        del subscriptions[name]
    subscriptions.update(added)
    return subscriptions


GroupT = TypeVar("GroupT")


def _group(
    subscriptions: Subscriptions, groups_of: Callable[[Subscription], Iterable[GroupT]]
) -> Mapping[GroupT, Subscriptions]:
    groups: defaultdict[GroupT, dict[str, Subscription]] = defaultdict(dict)
    for name, subscription in subscriptions.items():
        for group in groups_of(subscription):
            groups[group][name] = subscription
    return groups


def _patterns_of(subscription: Subscription) -> Iterable[str]:
    return subscription.patterns


def _splits_of(subscription: Subscription) -> Iterable[Split]:
    split = _split_of(subscription)
    return () if split is None else (split,)


def _split_of(subscription: Subscription) -> Split | None:
    """Return the split that a subscription is a variant of; a shadow gets every event."""
    if subscription.split is None or subscription.shadow:
        return None
    return subscription.agent, subscription.split


class _LazyEvent:
    """An event whose JSON object is built when a filter first needs it."""

    def __init__(self, event: Event, read: Callable[[], Document] | None = None) -> None:
        self.event = event
        self._read = read

    @cached_property
    def document(self) -> Document:
        return self._read() if self._read else self.event.model_dump(mode="json")


def _find_refusal(
    lazy_event: _LazyEvent, subscription: Subscription, patterns: frozenset[str]
) -> tuple[RoutingStep, str] | None:
    if patterns.isdisjoint(subscription.patterns):
        return "pattern", f"none of its patterns matches {lazy_event.event.event_type}"
    if _is_echo(lazy_event.event, subscription, patterns):
        path = " > ".join(lazy_event.event.path)
        return "echo", f"it subscribes to all topics, and {subscription.agent!r} took part in this event: {path}"
    # Most subscriptions have no conditions, and building the document is not free.
    unmet = filters.find_unmet_condition(subscription.where, lazy_event.document) if subscription.where else None
    return ("filter", str(unmet)) if unmet else None


def _is_echo(event: Event, subscription: Subscription, patterns: frozenset[str]) -> bool:
    """Return whether a subscriber to `*` would get an event that its own agent took part in causing.

    An agent that subscribes to all topics does not want its own events or those that result from them. A pattern that
    names the topic is explicit, so it always counts.

    Args:
        event: the event.
        subscription: the subscriber.
        patterns: the patterns that match the event's topic.
    """
    if subscription.agent not in event.path or ALL_TOPICS not in subscription.patterns:
        return False
    return not any(pattern in patterns for pattern in subscription.patterns if pattern != ALL_TOPICS)


def _is_chosen(subscription: Subscription, chosen: Mapping[Split, str]) -> bool:
    split = _split_of(subscription)
    return split is None or chosen[split] == subscription.variant


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
