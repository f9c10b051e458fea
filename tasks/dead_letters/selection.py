"""Select and group dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from petiole.events.arguments import check_argument, checks_arguments, instance_of
from petiole.events.content import Text
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import invalid_option, unknown_dead_letter
from petiole.tasks.handling.current import current_bus
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import DEAD_LETTER_STATES, DeadLetterRecord, DeadLetters, DeadLetterState

GroupBy = Literal["cause", "fingerprint", "subscription", "stream"]

OPEN_STATES: tuple[DeadLetterState, ...] = ("pending", "replaying", "failed_again")
"""States of letters that still need an operator."""


_QUERY_TYPES: dict[str, Any] = {
    "ids": tuple[Text, ...],
    **dict.fromkeys(("cause", "fingerprint", "subscription", "stream"), Text | None),
    "states": tuple[DeadLetterState, ...],
}


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Select letters by id, or by all given attributes and one of these states."""

    ids: tuple[str, ...] = ()
    cause: str | None = None
    fingerprint: str | None = None
    subscription: str | None = None
    stream: str | None = None
    states: tuple[DeadLetterState, ...] = OPEN_STATES

    def __post_init__(self) -> None:
        """Raise UsageError (invalid_option) for a value of another type."""
        for name, type_ in _QUERY_TYPES.items():
            check_argument(f"DeadLetterQuery.{name}", getattr(self, name), type_)

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether a letter has the selected attributes."""
        return all(
            wanted is None or group_key(letter, by) == wanted
            for by, wanted in (
                ("cause", self.cause),
                ("fingerprint", self.fingerprint),
                ("subscription", self.subscription),
                ("stream", self.stream),
            )
        )

    def __str__(self) -> str:
        if self.ids:
            return ", ".join(self.ids) if len(self.ids) <= _MAX_NAMED_IDS else f"{len(self.ids)} letters by id"
        values = {name: getattr(self, name) for name in ("cause", "fingerprint", "subscription", "stream")}
        selected = [f"{name}={value}" for name, value in values.items() if value is not None]
        return ", ".join(
            [*(selected or ["all"]), *(["state=" + "/".join(self.states)] if self.states != OPEN_STATES else [])]
        )


@dataclass(slots=True)
class DeadLetterGroup:
    """Letters with one attribute in common, their states and times, and the error of the first."""

    name: str
    error: str
    oldest: datetime
    newest: datetime
    states: Counter[DeadLetterState] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of letters."""
        return self.states.total()


_MAX_NAMED_IDS = 20

QUERY = instance_of(DeadLetterQuery)
"""The type of arguments that select letters, for `checks_arguments`."""


@checks_arguments(letters=QUERY | None)
def find_dead_letters(
    letters: DeadLetterQuery | None = None, *, bus: BusRuntime | None = None
) -> Iterator[DeadLetterRecord]:
    """Read letters page by page, oldest first; by default all open ones. Letters selected by id may have any state.

    Raises UsageError (unknown_dead_letter) if an id does not exist; BrokerUnavailable.
    """
    bus = current_bus(bus)
    with bus.state_store_access("reading dead letters"):
        yield from _find(bus.stores.dead_letters, DeadLetterQuery() if letters is None else letters)


def _find(store: DeadLetters, query: DeadLetterQuery) -> Iterator[DeadLetterRecord]:
    if not query.ids:
        yield from (record for record in store.iterate(query.states) if query.matches(record.letter))
        return
    states = store.states(query.ids)
    for letter_id in query.ids:
        if states[letter_id] is None:
            raise unknown_dead_letter(letter_id)
    yield from store.read(tuple(dict.fromkeys(query.ids)))


@checks_arguments(letter_id=Text)
def get_dead_letter(letter_id: str, *, bus: BusRuntime | None = None) -> DeadLetterRecord:
    """Read one letter. Raises UsageError (unknown_dead_letter)."""
    bus = current_bus(bus)
    return next(find_dead_letters(DeadLetterQuery(ids=(letter_id,)), bus=bus))


@checks_arguments(by=GroupBy, letters=QUERY | None)
def group_dead_letters(
    by: GroupBy, letters: DeadLetterQuery | None = None, *, bus: BusRuntime | None = None
) -> list[DeadLetterGroup]:
    """Group letters by an attribute, the largest group first."""
    bus = current_bus(bus)
    groups: dict[str, DeadLetterGroup] = {}
    for record in find_dead_letters(letters, bus=bus):
        letter = record.letter
        name = group_key(letter, by) or "-"
        group = groups.setdefault(
            name, DeadLetterGroup(name, f"{letter.error_type}: {letter.error}", letter.at, letter.at)
        )
        group.states[record.state] += 1
        group.oldest, group.newest = min(group.oldest, letter.at), max(group.newest, letter.at)
    return sorted(groups.values(), key=lambda group: -group.count)


def group_key(letter: DeadLetter, by: str) -> str | None:
    """Return the value of the attribute that letters are grouped by."""
    if by == "stream":
        return letter.event_attribute("stream_id") or letter.event_attribute("subject")
    return str(getattr(letter, by))


@checks_arguments(names=list[str] | tuple[str, ...])
def parse_states(names: Sequence[str]) -> tuple[DeadLetterState, ...]:
    """Parse names of states; `all` selects every state, an empty list the open ones.

    Raises UsageError (invalid_option) for an unknown state.
    """
    known = ("all", *DEAD_LETTER_STATES)
    for name in names:
        if name not in known:
            raise invalid_option("parse_states.names", name, f"give states of {', '.join(known)}")
    if "all" in names:
        return DEAD_LETTER_STATES
    return tuple(state for state in DEAD_LETTER_STATES if state in names) or OPEN_STATES
