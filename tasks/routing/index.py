"""Index of the subscriptions to one pattern by a condition of their filters, so that an event finds the few that match.

Each filter is indexed by one of its conditions: an equality, `one_of` or a prefix, the one that it shares with the
fewest others. Its conditions are evaluated only for events that meet this one. Filters without such a condition are
evaluated for every event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from petiole.events.conditions import EQUALS, FilterConditions, comparison_type, list_operators
from petiole.events.subscriptions import Subscription
from petiole.tasks.routing import filters
from petiole.tasks.routing.filters import Document

Subscriptions: TypeAlias = Mapping[str, Subscription]
"""Subscriptions by name."""

Key: TypeAlias = object
"""A value to look up. Values of different types differ: for filters, True is not 1."""


class IndexedField(NamedTuple):
    """A field of an event's JSON, or the first characters of its text."""

    path: str
    length: int | None = None

    def key_of(self, document: Document) -> Key:
        """Return the value that an event, given as its JSON object, has in this field."""
        value = filters.look_up(document, self.path)
        if self.length is None:
            return _key(value)
        return value[: self.length] if isinstance(value, str) else None


class IndexEntry(NamedTuple):
    """A value of a field, under which the index has subscriptions."""

    field: IndexedField
    key: Key


class PatternIndex:
    """Subscriptions to one pattern; `unfiltered` are those without a filter. Unchanging: `updated` makes another."""

    __slots__ = ("_fields", "_indexed", "_unindexed", "unfiltered")

    def __init__(self) -> None:
        self.unfiltered: dict[str, Subscription] = {}
        self._unindexed: dict[str, Subscription] = {}
        self._indexed: dict[IndexEntry, dict[str, Subscription]] = {}
        self._fields: dict[IndexedField, int] = {}

    @property
    def has_filters(self) -> bool:
        """Whether any of the subscriptions has a filter."""
        return bool(self._unindexed or self._fields)

    @property
    def is_empty(self) -> bool:
        """Whether there are no subscriptions."""
        return not (self.unfiltered or self.has_filters)

    def find(self, document: Document) -> Iterator[tuple[str, Subscription]]:
        """Yield the subscriptions, with their names, whose filter an event, given as its JSON object, meets."""
        for candidates in (self._unindexed, *self._find_indexed(document)):
            for name, subscription in candidates.items():
                if filters.matches(subscription.where, document):
                    yield name, subscription

    def _find_indexed(self, document: Document) -> list[dict[str, Subscription]]:
        entries = [IndexEntry(field, field.key_of(document)) for field in self._fields]
        return [self._indexed[entry] for entry in entries if entry in self._indexed]

    def updated(self, removed: Subscriptions, added: Subscriptions) -> PatternIndex:
        """Return an index without the first subscriptions and with the second. It shares what they do not change."""
        index = PatternIndex()
        index.unfiltered = dict(self.unfiltered)
        index._unindexed = dict(self._unindexed)
        index._indexed = dict(self._indexed)
        index._fields = dict(self._fields)
        own: set[IndexEntry] = set()
        for name, subscription in removed.items():
            index._remove(name, subscription, own)
        for name, subscription in added.items():
            index._add(name, subscription, own)
        return index

    def _add(self, name: str, subscription: Subscription, own: set[IndexEntry]) -> None:
        if not subscription.where:
            self.unfiltered[name] = subscription
            return
        choices = list_entries(subscription.where)
        if not choices:
            self._unindexed[name] = subscription
            return
        for entry in min(choices, key=self._count):
            self._own(entry, own)[name] = subscription

    def _remove(self, name: str, subscription: Subscription, own: set[IndexEntry]) -> None:
        self.unfiltered.pop(name, None)
        self._unindexed.pop(name, None)
        for entries in list_entries(subscription.where):
            for entry in entries:
                if name in self._indexed.get(entry, ()):
                    self._own(entry, own).pop(name)
                    self._forget_if_empty(entry, own)

    def _count(self, entries: frozenset[IndexEntry]) -> int:
        return sum(len(self._indexed.get(entry, ())) for entry in entries)

    def _own(self, entry: IndexEntry, own: set[IndexEntry]) -> dict[str, Subscription]:
        """Return an entry's subscriptions, copied first if another index may have the same."""
        if entry not in own:
            own.add(entry)
            if entry not in self._indexed:
                self._fields[entry.field] = self._fields.get(entry.field, 0) + 1
            self._indexed[entry] = dict(self._indexed.get(entry, {}))
        return self._indexed[entry]

    def _forget_if_empty(self, entry: IndexEntry, own: set[IndexEntry]) -> None:
        if self._indexed[entry]:
            return
        del self._indexed[entry]
        own.discard(entry)
        self._fields[entry.field] -= 1
        if not self._fields[entry.field]:
            del self._fields[entry.field]


def list_entries(where: FilterConditions) -> list[frozenset[IndexEntry]]:
    """List the conditions by which a filter can be indexed, each as the entries of which an event must have one."""
    conditions = [
        _entries(path, name, operand)
        for path, condition in where.items()
        for name, operand in list_operators(condition).items()
    ]
    return [entries for entries in conditions if entries]


def _entries(path: str, operator: str, operand: Any) -> frozenset[IndexEntry]:
    match operator:
        case "prefix":
            return frozenset({IndexEntry(IndexedField(path, len(operand)), operand)})
        case "one_of":
            return frozenset(IndexEntry(IndexedField(path), _key(choice)) for choice in operand)
        case name if name == EQUALS:
            return frozenset({IndexEntry(IndexedField(path), _key(operand))})
    return frozenset()


def _key(value: object) -> Key:
    if isinstance(value, str):
        return value
    kind = comparison_type(value)
    return None if kind is None else (kind, value)
