"""Export dead letters as JSON lines and import them, here or in another system.

A line holds a letter with its state and its replays. The number of the next replay continues after an import, so no
inbox treats it as a duplicate of an earlier replay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import TextIOBase
from typing import Annotated, Any, TextIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from petiole.events.arguments import checks_arguments
from petiole.events.catalog.dead_letters import CompletedImport, DeadLetterImportCompletedEvent
from petiole.events.content import Text
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import invalid_dead_letter
from petiole.events.errors.base import describe
from petiole.events.event import UtcDatetime
from petiole.events.texts import parse_json
from petiole.tasks.dead_letters.selection import QUERY, DeadLetterQuery, find_dead_letters
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.audit import publish_audit_events
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import DeadLetterRecord, DeadLetterState

IMPORT_BATCH_SIZE = 50
"""Dead letters imported in one round trip."""

MAX_LINE_LENGTH = 134_217_728
"""The longest line of an import, in characters; more than the letter of the largest message needs."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """How many letters an import stored, and how many existed and stayed unchanged."""

    imported: int
    known: int


def _number(lines: Iterable[object]) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            yield number, line
    except UnicodeDecodeError as error:
        raise invalid_dead_letter(number + 1, "-", f"is no UTF-8 text ({error.reason})") from error


def _check_is_file(file: object) -> object:
    if not callable(getattr(file, "write", None)):
        raise ValueError("give a file that is open for writing text")  # noqa: TRY004 - pydantic converts only ValueError
    return file


def _check_is_lines(lines: object) -> object:
    if isinstance(lines, str | bytes | Mapping) or not isinstance(lines, Iterable):
        raise ValueError("give an open file, or a list of its lines")  # noqa: TRY004 - as above
    return lines


_WRITABLE = Annotated[Any, AfterValidator(_check_is_file)]
_LINES = Annotated[Any, AfterValidator(_check_is_lines)]


class _Line(BaseModel):
    """One line of an export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    letter: DeadLetter
    state: DeadLetterState
    replays: Annotated[int, Field(ge=0)] = 0
    replayed_at: UtcDatetime | None = None
    replayed_by: str | None = None


@checks_arguments(file=_WRITABLE, letters=QUERY | None)
def export_to(file: TextIO, letters: DeadLetterQuery | None = None, *, bus: BusRuntime | None = None) -> int:
    """Write letters as JSON lines, oldest first; returns how many. Raises UsageError (unknown_dead_letter)."""
    bus = current_bus(bus)
    count = 0
    for count, record in enumerate(find_dead_letters(letters, bus=bus), start=1):  # noqa: B007 - returned below
        line = _Line(
            letter=record.letter,
            state=record.state,
            replays=record.replays,
            replayed_at=record.replayed_at,
            replayed_by=record.replayed_by,
        )
        # In ASCII: the file may be a terminal.
        file.write(json.dumps(line.model_dump(mode="json", exclude_none=True)) + "\n")
    return count


@checks_arguments(lines=_LINES, operator=Text | None)
def import_from(
    lines: Iterable[str],
    *,
    operator: str | None = None,
    bus: BusRuntime | None = None,
) -> ImportResult:
    """Import dead letters from JSON lines. Existing ones stay unchanged, so an import can be repeated.

    A letter that was being replayed when it was exported becomes pending.

    Raises: UsageError (invalid_dead_letter); the lines before the invalid one are imported.
    """
    bus = current_bus(bus)
    operator, results, is_whole = operator or current_operator(), list[bool](), False
    batch: list[DeadLetterRecord] = []

    def store_batch() -> None:
        with bus.state_store_access("importing dead letters"):
            results.extend(bus.stores.dead_letters.import_letters(batch))
        batch.clear()

    try:
        for record in _read(lines):
            batch.append(record)
            if len(batch) == IMPORT_BATCH_SIZE:
                store_batch()
        is_whole = True
    finally:
        if batch:
            store_batch()
        imported, known = sum(results), len(results) - sum(results)
        if results:
            content = CompletedImport(operator=operator, imported=imported, known=known, is_whole=is_whole)
            publish_audit_events(bus, [DeadLetterImportCompletedEvent(content=content)])
    return ImportResult(imported, known)


def _bounded(lines: Iterable[object]) -> Iterable[object]:
    """Read a file in bounded pieces: one line could be larger than the memory."""
    return iter(partial(lines.readline, MAX_LINE_LENGTH + 1), "") if isinstance(lines, TextIOBase) else lines


def _read(lines: Iterable[object]) -> Iterator[DeadLetterRecord]:
    for number, text in _number(_bounded(lines)):
        if not isinstance(text, str):
            raise invalid_dead_letter(number, "-", f"{describe(text)} is no text; open the file in text mode")
        if not text.strip():
            continue
        if len(text) > MAX_LINE_LENGTH:
            reason = f"the line has more than {MAX_LINE_LENGTH:,} characters; write one letter a line"
            raise invalid_dead_letter(number, "-", reason)
        try:
            document = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise invalid_dead_letter(number, "-", f"invalid JSON: {error}; write one letter a line") from error
        try:
            line = _Line.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise invalid_dead_letter(number, ".".join(map(str, first["loc"])) or "-", first["msg"]) from error
        state: DeadLetterState = "pending" if line.state == "replaying" else line.state
        yield DeadLetterRecord(line.letter, state, line.replays, line.replayed_at, line.replayed_by)
