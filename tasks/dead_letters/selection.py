"""Selection: which dead letters are meant, and how they fall into groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import unknown_dead_letter
from petiole.tasks.handling.current import current_bus
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import STATES, Kept, State

GroupBy = Literal["cause", "fingerprint", "subscription", "stream"]

OPEN: tuple[State, ...] = ("pending", "replaying", "failed_again")
"""The states of letters that nobody is done with."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Which letters: by id, or all that have every attribute that is given, in one of these states."""

    ids: tuple[str, ...] = ()
    cause: str | None = None
    fingerprint: str | None = None
    subscription: str | None = None
    stream: str | None = None
    states: tuple[State, ...] = OPEN

    def take(self, letter: DeadLetter) -> bool:
        """Tell whether a letter has the attributes that are asked for."""
        return all(
            wanted is None or value_of(letter, by) == wanted
            for by, wanted in (
                ("cause", self.cause),
                ("fingerprint", self.fingerprint),
                ("subscription", self.subscription),
                ("stream", self.stream),
            )
        )

    def __str__(self) -> str:
        if self.ids:
            return ", ".join(self.ids) if len(self.ids) <= _NAMED else f"{len(self.ids)} letters by id"
        named = {each: getattr(self, each) for each in ("cause", "fingerprint", "subscription", "stream")}
        asked = [f"{name}={value}" for name, value in named.items() if value is not None]
        return ", ".join([*(asked or ["all"]), *(["state=" + "/".join(self.states)] if self.states != OPEN else [])])


@dataclass(slots=True)
class Group:
    """Letters that have one thing in common: what it is, how many, since when, and one of their errors."""

    name: str
    error: str
    oldest: datetime
    newest: datetime
    states: Counter[State] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many letters."""
        return self.states.total()


_NAMED = 20


def find(letters: Letters | None = None, *, bus: BusRuntime | None = None) -> Iterator[Kept]:
    """Read letters, oldest first, a few at a time; by default all that nobody is done with.

    Raises UsageError (unknown_dead_letter) where an id is not kept; of letters that are asked for by id, whatever their
    state.
    """
    bus = current_bus(bus)
    asked = letters or Letters()
    store = bus.stores.dead_letters
    if not asked.ids:
        yield from (kept for kept in store.each(asked.states) if asked.take(kept.letter))
        return
    known = store.states(asked.ids)
    for each in asked.ids:
        if known[each] is None:
            raise unknown_dead_letter(each)
    yield from store.read(tuple(dict.fromkeys(asked.ids)))


def get(letter_id: str, *, bus: BusRuntime | None = None) -> Kept:
    """Read one letter. Raises UsageError (unknown_dead_letter)."""
    bus = current_bus(bus)
    return next(find(Letters(ids=(letter_id,)), bus=bus))


def groups(by: GroupBy, letters: Letters | None = None, *, bus: BusRuntime | None = None) -> list[Group]:
    """Count letters by what they have in common, the largest group first."""
    bus = current_bus(bus)
    found: dict[str, Group] = {}
    for kept in find(letters, bus=bus):
        letter = kept.letter
        name = value_of(letter, by) or "-"
        group = found.setdefault(name, Group(name, f"{letter.error_type}: {letter.error}", letter.at, letter.at))
        group.states[kept.state] += 1
        group.oldest, group.newest = min(group.oldest, letter.at), max(group.newest, letter.at)
    return sorted(found.values(), key=lambda group: -group.count)


def value_of(letter: DeadLetter, by: str) -> str | None:
    """Read what a letter is grouped by."""
    if by == "stream":
        return letter.attribute("stream_id") or letter.attribute("subject")
    return str(getattr(letter, by))


def states_of(names: Sequence[str]) -> tuple[State, ...]:
    """Read names of states; `all` stands for every one, and none for those that nobody is done with."""
    if "all" in names:
        return STATES
    return tuple(state for state in STATES if state in names) or OPEN
