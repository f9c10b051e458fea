"""List, show, edit, replay and discard dead letters."""

from __future__ import annotations

import sys
from datetime import timedelta
from itertools import islice
from typing import Any, TextIO

import click

from petiole.events.errors import UsageError
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery, parse_states
from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import (
    POSITIVE,
    acting,
    connected_app,
    format_command,
    json_option,
    load_types,
    operator_option,
    reason_option,
)
from petiole.workers.cli.dead_letters.edit import read_new_event, read_text
from petiole.workers.cli.dead_letters.render import (
    letter_as_json,
    print_groups,
    print_letter,
    print_letters,
    print_plan,
    print_replay,
)
from petiole.workers.cli.dead_letters.selection import (
    GROUP_FIELDS,
    build_query,
    progress_bar,
    selection_options,
    state_option,
)


@click.group
def command() -> None:
    """List, show, edit, replay and discard dead letters: deliveries that failed for good.

    A dead letter contains the event or its bytes, the error and the attempts. It is kept until it is discarded or
    expires.
    """


@command.command("list")
@click.option("--group", "by", type=click.Choice(GROUP_FIELDS), help="Count letters by this field.")
@state_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The maximum number of lines.")
@json_option
def list_(*, by: Any, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List letters, oldest first; or groups, largest first."""
    bus, letters = connected_app(), DeadLetterQuery(states=parse_states(states))
    if by is not None:
        print_groups(dead_letters.group_dead_letters(by, letters, bus=bus), by, limit, as_json=as_json)
        return
    records = list(islice(dead_letters.find_dead_letters(letters, bus=bus), limit))
    if as_json:
        print_json([letter_as_json(record) for record in records])
        return
    print_letters(records, bus.stores.dead_letters.count_by_state(), is_cut=len(records) == limit)


@command.command
@click.argument("letter_id", metavar="ID")
@json_option
def show(letter_id: str, *, as_json: bool) -> None:
    """Show a letter: its state, error, attempts, and event or bytes."""
    record = dead_letters.get_dead_letter(letter_id, bus=connected_app())
    if as_json:
        print_json(letter_as_json(record))
        return
    print_letter(record)


@command.command
@click.argument("letter_id", metavar="ID")
@click.option("--file", type=click.File(encoding="utf-8"), help="The new event as JSON; - reads standard input.")
@click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change one value, such as content.text=Hello."
)
@click.option("--to", metavar="SUBSCRIPTION", help="Deliver it to another subscription.")
@operator_option
@reason_option
@json_option
def edit(
    letter_id: str,
    *,
    file: TextIO | None,
    changes: tuple[str, ...],
    to: str | None,
    operator: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Edit the event of a letter; without --file and --set, in $EDITOR.

    A new letter with the edited event is stored, and the old one is marked `replaced`. The event's id, type, stream,
    flow and cause cannot be changed unless the old event could not be read.
    """
    if file and changes:
        raise click.UsageError("use either --file, for a whole event, or --set, for single values")
    bus = connected_app()
    load_types(bus)
    record = dead_letters.get_dead_letter(letter_id, bus=bus)
    event = read_new_event(record, read_text(file) if file else None, changes)
    with acting(bus, "dead_letter.edited", letter_id, operator=operator, reason=reason):
        new = dead_letters.edit(letter_id, event, subscription=to, operator=operator, bus=bus)
    if as_json:
        print_json(letter_as_json(dead_letters.get_dead_letter(new.id, bus=bus)))
        return
    console = open_console()
    console.print(f"stored as {new.id}, for {new.subscription}", soft_wrap=True)
    console.print(f"replay it: {format_command(f'dead-letters replay {new.id}')}", soft_wrap=True)


@command.command
@selection_options
@click.option(
    "--rate",
    type=POSITIVE,
    metavar="N",
    help="The maximum number of deliveries per second.",
)
@click.option(
    "--canary",
    type=click.IntRange(min=1),
    metavar="K",
    help="Replay this many first, and the rest only if they succeed.",
)
@click.option("--wait", is_flag=True, help="Wait for the outcomes and count them.")
@click.option(
    "--timeout",
    type=POSITIVE,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait for the outcomes of the canary, and of all, at most this long.",
)
@click.option("--dry-run", is_flag=True, help="Only count the letters.")
@operator_option
@reason_option
@json_option
def replay(
    ids: tuple[str, ...],
    *,
    wanted: dict[str, str],
    all_of_them: bool,
    states: tuple[str, ...],
    rate: float | None,
    canary: int | None,
    wait: bool,
    timeout: float,
    dry_run: bool,
    operator: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Deliver letters again: by id, by group, or all that are pending or failed again.

    Each letter is delivered once, even if several operators replay it at the same time. The exit code is 1 if --canary
    stopped the replay.
    """
    letters, bus = build_query(ids, wanted, states, all_of_them=all_of_them), connected_app()
    if dry_run:
        print_plan(dead_letters.plan(letters, bus=bus), as_json=as_json)
        return
    if ids and len(ids) == 1:
        # A single letter that cannot be replayed is an error. Of several letters, the refused ones are counted.
        _raise_refusals(dead_letters.plan(letters, bus=bus).refused)
    recording = acting(bus, "dead_letters.replayed", str(letters), operator=operator, reason=reason)
    with recording, progress_bar("replaying") as advance:
        report = dead_letters.replay(
            letters,
            rate_hz=rate,
            canary=canary or 0,
            wait=wait,
            timeout=timedelta(seconds=timeout),
            operator=operator,
            on_sent=advance,
            bus=bus,
        )
    print_replay(report, as_json=as_json)
    if report.stopped:
        sys.exit(1)


@command.command
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@operator_option
@reason_option
@json_option
def discard(
    ids: tuple[str, ...],
    *,
    wanted: dict[str, str],
    all_of_them: bool,
    states: tuple[str, ...],
    yes: bool,
    operator: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Delete letters: by id, by group, or all.

    Letters that are being replayed are kept unless --state replaying selects them.
    """
    letters, bus = build_query(ids, wanted, states, all_of_them=all_of_them), connected_app()
    total = sum(1 for _ in dead_letters.find_dead_letters(dead_letters.exclude_replaying(letters), bus=bus))
    if total and not yes:
        hint = "to keep a copy, export them first: petiole dead-letters export FILE"
        click.confirm(f"discard {total:,} dead letters ({letters})? {hint}\n", abort=True, err=True)
    recording = acting(bus, "dead_letters.discarded", str(letters), operator=operator, reason=reason)
    with recording, progress_bar("discarding") as advance:
        removed = dead_letters.discard(
            letters, operator=operator, on_discarded=lambda count: advance(count, total), bus=bus
        )
    if as_json:
        print_json({"discarded": removed})
    else:
        open_console().print(f"discarded {removed:,}")


@command.command
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False))
@state_option
def export(file: TextIO, states: tuple[str, ...]) -> None:
    """Write letters to FILE as JSON lines, oldest first; - writes to standard output."""
    count = dead_letters.export_to(file, DeadLetterQuery(states=parse_states(states)), bus=connected_app())
    file.flush()
    open_console(stderr=True).print(f"exported {count:,}")


@command.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@operator_option
@reason_option
@json_option
def import_(file: TextIO, *, operator: str | None, reason: str, as_json: bool) -> None:
    """Import the letters of an exported FILE; - reads standard input. Letters that exist already are not changed."""
    bus = connected_app()
    with acting(bus, "dead_letters.imported", file.name, operator=operator, reason=reason):
        report = dead_letters.import_from(file, operator=operator, bus=bus)
    if as_json:
        print_json({"imported": report.imported, "known": report.known})
    else:
        open_console().print(f"imported {report.imported:,}; existed already: {report.known:,}")


def _raise_refusals(refused: tuple[UsageError, ...]) -> None:
    for refusal in refused:
        raise refusal
