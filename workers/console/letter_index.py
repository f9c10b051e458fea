"""Letter index: the groups of dead letters, without reading all of them for every page.

A letter may be as large as its event, so only what groups need is kept in memory, about 300 bytes for each. A visit
reads new letters for at most READ_S; the page says how many are still to be read.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from petiole.tasks.stores.dead_letters import LETTER_PAGE_SIZE, DeadLetterState

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

READ_S: Final = 0.4
MIN_INTERVAL_S: Final = 2.0


class LetterKey(NamedTuple):
    """What the letters of a group have in common."""

    agent: str
    cause: str
    fingerprint: str


@dataclass(slots=True)
class LetterGroup:
    """Letters with the same agent, cause and error: their states and times, and the type of the error."""

    key: LetterKey
    subscription: str
    error_type: str
    oldest: datetime
    newest: datetime
    states: Counter[DeadLetterState] = field(default_factory=Counter)


class _Known(NamedTuple):
    key: LetterKey
    subscription: str
    error_type: str
    at: datetime


class LetterIndex:
    """Groups of the letters of a bus."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._states: dict[str, DeadLetterState] = {}
        self._ids: list[str] = []
        self._read_at = 0.0
        self._interval_s = MIN_INTERVAL_S

    def groups(self) -> tuple[list[LetterGroup], int]:
        """Return the groups, those with the newest letter first, and how many letters are still to be read."""
        with self._lock:
            self._refresh()
            groups: dict[LetterKey, LetterGroup] = {}
            for letter_id, known in self._known.items():
                group = groups.get(known.key)
                if group is None:
                    group = groups[known.key] = LetterGroup(
                        known.key, known.subscription, known.error_type, known.at, known.at
                    )
                group.states[self._states.get(letter_id, "pending")] += 1
                group.oldest, group.newest = min(group.oldest, known.at), max(group.newest, known.at)
            return sorted(groups.values(), key=lambda each: each.newest, reverse=True), self._missing()

    def ids(self, key: LetterKey, states: Sequence[DeadLetterState]) -> tuple[list[str], int]:
        """Return the letters of a group in these states, newest first, and how many letters are still to be read."""
        with self._lock:
            self._refresh()
            ids = [
                letter_id
                for letter_id in reversed(self._ids)
                if (known := self._known.get(letter_id)) is not None
                and known.key == key
                and self._states.get(letter_id) in states
            ]
            return ids, self._missing()

    def expire(self) -> None:
        """Have the next visit read the states again: something was changed."""
        with self._lock:
            self._read_at = 0.0

    def _missing(self) -> int:
        return sum(1 for letter_id in self._ids if letter_id not in self._known)

    def _refresh(self) -> None:
        began = time.monotonic()
        if began - self._read_at >= self._interval_s:
            self._ids = self._bus.stores.dead_letters.ids()
            self._states = {
                letter_id: state
                for page in _pages(self._ids)
                for letter_id, state in self._bus.stores.dead_letters.states(page).items()
                if state is not None
            }
            self._known = {name: known for name, known in self._known.items() if name in self._states}
            self._read_at = time.monotonic()
            # So many letters that this takes long are read again less often.
            self._interval_s = max(MIN_INTERVAL_S, 10 * (self._read_at - began))
        deadline = time.monotonic() + READ_S
        for page in _pages([name for name in reversed(self._ids) if name not in self._known]):
            if time.monotonic() > deadline:
                return
            for record in self._bus.stores.dead_letters.read(page):
                letter = record.letter
                agent = letter.subscription.rpartition(".")[0] or letter.queue or "-"
                key = LetterKey(*map(sys.intern, (agent, letter.cause, letter.fingerprint)))
                subscription, error_type = sys.intern(letter.subscription), sys.intern(letter.error_type)
                self._known[letter.id] = _Known(key, subscription, error_type, letter.at)


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), LETTER_PAGE_SIZE):
        yield ids[start : start + LETTER_PAGE_SIZE]
