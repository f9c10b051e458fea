"""Discarding: letters are removed for good, and it is said of each what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from petiole.events.catalog.dead_letters import DeadLetterDiscardedEvent, DiscardedLetter
from petiole.tasks.dead_letters.audit import say
from petiole.tasks.dead_letters.selection import Letters, find
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.operator import operator_here
from petiole.tasks.publication import batched
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import STATES, Kept

AT_ONCE = 100
"""Letters that are removed in one step."""

_ERROR_LENGTH = 500


def discard(
    letters: Letters,
    *,
    operator: str | None = None,
    on_discarded: Callable[[int], object] = lambda _: None,
    bus: BusRuntime | None = None,
) -> int:
    """Remove letters; returns how many.

    Those that are being replayed stay, unless they are asked for by id or by that state: their replay goes on, and if
    it fails they are there again. Each is told before it is removed. Raises: UsageError (unknown_dead_letter),
    BrokerUnavailable.
    """
    bus = current_bus(bus)
    who, removed = operator or operator_here(), 0
    ids = [kept.letter.id for kept in find(discardable(letters), bus=bus)]
    for some in batched(ids, AT_ONCE):
        chosen = list(bus.stores.dead_letters.read(some))
        say(bus, [_told(kept, who) for kept in chosen])
        removed += sum(bus.stores.dead_letters.remove([(kept.letter.id, kept.state, None) for kept in chosen]))
        on_discarded(len(some))
    return removed


def discardable(letters: Letters) -> Letters:
    """Leave out what is being replayed, where all that are open are asked for."""
    is_by_state = letters.states != Letters().states
    if letters.ids or is_by_state:
        return letters
    return replace(letters, states=tuple(state for state in STATES if state in letters.states and state != "replaying"))


def _told(kept: Kept, who: str) -> DeadLetterDiscardedEvent:
    letter = kept.letter
    content = DiscardedLetter(
        letter_id=letter.id,
        operator=who,
        subscription=letter.subscription,
        cause=letter.cause,
        state=kept.state,
        error=f"{letter.error_type}: {letter.error}"[:_ERROR_LENGTH],
    )
    return DeadLetterDiscardedEvent(content=content)
