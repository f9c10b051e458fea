"""A conversation of 20 turns shows every row of the contracts."""

from __future__ import annotations

from collections.abc import Callable

from tests.journeys.conversation_contracts import first_rows, second_rows  # noqa: F401 - they register their rows
from tests.journeys.conversation_contracts.conversation import (
    ROWS,
    TURNS,
    Seen,
)


def fails(look: Callable[[Seen], None], seen: Seen) -> str:
    """Look at a row; returns why it is not seen, or nothing."""
    try:
        look(seen)
    except (AssertionError, ValueError, StopIteration, TimeoutError) as error:
        return f"{look.__name__}: {type(error).__name__}: {error}"
    return ""


def test_the_table_has_every_row():
    assert {f"J{number}" for number in range(42, 78)} <= ROWS.keys()


def test_a_conversation_of_20_turns_shows_every_row_of_the_contracts(seen):
    assert len(TURNS) == 20

    looked = {look: fails(look, seen) for look in dict.fromkeys(ROWS.values())}
    found = {name: looked[look] for name, look in ROWS.items()}

    assert {name: why for name, why in found.items() if why} == {}
