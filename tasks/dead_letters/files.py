"""Files: letters leave as lines of JSON, and come back from them, here or in another system.

A line holds a letter with its state and its replays. What is imported goes on where it was: a next replay has the next
number, so that no inbox takes it for an earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petiole.events.catalog.dead_letters import CompletedImport, DeadLetterImportCompletedEvent
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import invalid_dead_letter
from petiole.events.event import Moment
from petiole.tasks.dead_letters.audit import say
from petiole.tasks.dead_letters.selection import Letters, find
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.operator import operator_here
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import Kept, State

AT_ONCE = 50
"""Letters that are imported in one round trip."""


@dataclass(frozen=True, slots=True)
class Imported:
    """How many letters an import kept, and how many were known and stayed as they were."""

    imported: int
    known: int


class _Line(BaseModel):
    """One line of such a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    letter: DeadLetter
    state: State
    replays: Annotated[int, Field(ge=0)] = 0
    replayed_at: Moment | None = None
    replayed_by: str | None = None


def export_to(file: TextIO, letters: Letters | None = None, *, bus: BusRuntime | None = None) -> int:
    """Write letters as lines of JSON, oldest first; returns how many. Raises UsageError (unknown_dead_letter)."""
    bus = current_bus(bus)
    count = 0
    for count, kept in enumerate(find(letters, bus=bus), start=1):  # noqa: B007 - how many there were
        line = _Line(
            letter=kept.letter,
            state=kept.state,
            replays=kept.replays,
            replayed_at=kept.replayed_at,
            replayed_by=kept.replayed_by,
        )
        file.write(line.model_dump_json(exclude_none=True) + "\n")
    return count


def import_from(
    lines: Iterable[str],
    *,
    operator: str | None = None,
    bus: BusRuntime | None = None,
) -> Imported:
    """Keep the letters that lines of JSON hold; one that is known stays as it is, so an import can be repeated.

    One that was being replayed when it was exported is pending. Raises UsageError (invalid_dead_letter): the lines
    before it were imported.
    """
    bus = current_bus(bus)
    who, results, is_whole = operator or operator_here(), list[bool](), False
    some: list[Kept] = []
    try:
        for kept in _read(lines):
            some.append(kept)
            if len(some) == AT_ONCE:
                results += bus.stores.dead_letters.put_back(some)
                some.clear()
        is_whole = True
    finally:
        if some:
            results += bus.stores.dead_letters.put_back(some)
        imported, known = sum(results), len(results) - sum(results)
        if results:
            content = CompletedImport(operator=who, imported=imported, known=known, is_whole=is_whole)
            say(bus, [DeadLetterImportCompletedEvent(content=content)])
    return Imported(imported, known)


def _read(lines: Iterable[str]) -> Iterator[Kept]:
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise invalid_dead_letter(number, "-", f"this is no JSON: {error}; write one letter a line") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise invalid_dead_letter(number, ".".join(map(str, first["loc"])) or "-", first["msg"]) from error
        state: State = "pending" if line.state == "replaying" else line.state
        yield Kept(line.letter, state, line.replays, line.replayed_at, line.replayed_by)
