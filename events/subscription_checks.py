"""Check a subscription against the event types that its process knows, so that a typo is refused when it is included.

A handler of an unknown type would never be called, and a filter on an unknown field would never match.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from petiole.events.catalog.message import CustomEvent
from petiole.events.errors import UsageError, invalid_filter, invalid_pattern, invalid_subscription
from petiole.events.registry import EventRegistry, EventType
from petiole.events.subscriptions import Subscription
from petiole.events.topics import ALL_TOPICS, TopicTrie, list_matching_patterns


def check_subscription(subscription: Subscription, registry: EventRegistry, *, gathered_by: str | None = None) -> None:
    """Check that each pattern matches a known event type, and that one of these types has each named field.

    Args:
        subscription: its patterns, `where` and `ordered_by` are checked.
        registry: the known event types.
        gathered_by: the path of a field that is needed for each pattern.

    Raises:
        UsageError: (invalid_pattern, invalid_filter, invalid_subscription) with the nearest known name.
    """
    names_field = subscription.where or subscription.ordered_by or gathered_by
    if subscription.patterns == (ALL_TOPICS,) and not names_field:
        return
    types_by_pattern = {pattern: find_types(pattern, registry) for pattern in subscription.patterns}
    types = [event_type for found in types_by_pattern.values() for event_type in found]
    for path in subscription.where:
        if reason := _find_missing(path, types):
            raise invalid_filter(path, f"{subscription.name} gets {reason}")
    if subscription.ordered_by and (reason := _find_missing(subscription.ordered_by, types)):
        raise invalid_subscription(subscription.name, "ordered", f"it gets {reason}")
    for pattern, found in types_by_pattern.items():
        if gathered_by and (reason := _find_missing(gathered_by, found)):
            raise invalid_subscription(subscription.name, "by", f"for {pattern!r} it gets {reason}")


def check_known(pattern: str, registry: EventRegistry) -> None:
    """Check that a pattern matches a known event type. Raises UsageError (invalid_pattern) with the nearest pattern."""
    if pattern != ALL_TOPICS:
        find_types(pattern, registry)


def find_types(pattern: str, registry: EventRegistry) -> list[EventType]:
    """Return the known event types that a pattern matches. Raises UsageError (invalid_pattern) if there is none."""
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, pattern)
    first = pattern.partition(".")[0]
    known = registry.all() if first == ALL_TOPICS else registry.in_family(first)
    types = [event_type for event_type in known if _may_match(pattern, trie, event_type, registry)]
    if not types:
        raise _unmatched(pattern, registry)
    return types


def _may_match(pattern: str, trie: TopicTrie[str], event_type: EventType, registry: EventRegistry) -> bool:
    family, _, rest = event_type.topic.partition(".")
    if rest != ALL_TOPICS:
        return bool(trie.match(event_type.topic))
    if pattern in (ALL_TOPICS, event_type.topic):
        return True
    if event_type.model is CustomEvent and not registry.allows_undeclared:
        # Each of its types is declared, so each is in the registry by its own topic.
        return False
    first, _, further = pattern.partition(".")
    return bool(further) and first in (family, ALL_TOPICS)


def _unmatched(pattern: str, registry: EventRegistry) -> UsageError:
    topics = [event_type.topic for event_type in registry.all()]
    known = {known for topic in topics for known in ([topic] if "*" in topic else list_matching_patterns(topic))}
    nearest = difflib.get_close_matches(pattern, sorted(known), n=1, cutoff=0.8)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "register the class of its type, or declare it, before"
    return invalid_pattern(pattern, f"it matches no known event type ({hint})")


def _find_missing(path: str, types: Sequence[EventType]) -> str | None:
    """Return why no event of these types has a field; None if one may have it."""
    if any(_may_have(event_type, path.split(".")) for event_type in types):
        return None
    known = {known for event_type in types for known in _list_paths(event_type)}
    nearest = difflib.get_close_matches(path, sorted(known), n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"they have {', '.join(sorted(known)[:_MAX_NAMED_PATHS])}"
    return f"no event with a field {path!r}; {hint}"


_MAX_NAMED_PATHS = 10


def _may_have(event_type: EventType, words: Sequence[str]) -> bool:
    if event_type.parameters is not None and words[:2] == _PARAMETERS:
        return len(words) == len(_PARAMETERS) or _holds(event_type.parameters, words[2:])
    return _holds(event_type.model, words)


_PARAMETERS = ["content", "parameters"]


def _holds(annotation: Any, words: Sequence[str]) -> bool:
    """Return whether a value of that type may have that path in its JSON. Maps and unfamiliar types may have any."""
    if not words:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = _fields(annotation).get(words[0])
        return annotation.model_config.get("extra") == "allow" if field is None else _holds(field, words[1:])
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return any(_holds(part, words) for part in get_args(annotation))
    kind = origin or annotation
    return not (isinstance(kind, type) and issubclass(kind, _WITHOUT_FIELDS))


_WITHOUT_FIELDS = (str, bytes, int, float, datetime, timedelta, Enum, list, tuple, set, frozenset, type(None))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Return the annotations of a model's fields, by their names in JSON."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _list_paths(event_type: EventType) -> Iterator[str]:
    """List the paths that a type's events have, as hints."""
    yield from _list_model_paths(event_type.model, "")
    if event_type.parameters is not None:
        yield from _list_model_paths(event_type.parameters, "content.parameters.")


def _list_model_paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, annotation in _fields(model).items():
        yield f"{prefix}{name}"
        if prefix.count(".") < _MAX_HINT_DEPTH:
            for nested in _models_in(annotation):
                yield from _list_model_paths(nested, f"{prefix}{name}.")


_MAX_HINT_DEPTH = 3


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    parts = [annotation, *get_args(annotation)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
