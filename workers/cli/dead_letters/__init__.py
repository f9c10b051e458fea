"""Look at deliveries that were given up, mend, replay and discard them."""

from __future__ import annotations

import sys
from datetime import timedelta
from itertools import islice
from typing import Any, TextIO

import click

from petiole.events.errors import UsageError
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import Letters, states_of
from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import an_operator, as_json, as_typed, connected_app
from petiole.workers.cli.dead_letters.edit import event_for
from petiole.workers.cli.dead_letters.render import (
    as_object,
    show_groups,
    show_letter,
    show_list,
    show_plan,
    show_replay,
)
from petiole.workers.cli.dead_letters.selection import GROUPS, chosen, in_states, letters_of, progress
from petiole.workers.process.discovery import configured_agents


@click.group
def command() -> None:
    """Look at deliveries that were given up; mend, replay and discard them.

    Each is kept with its event or its bytes, its error and its attempts, until somebody discards it or it is too old.
    """


@command.command("list")
@click.option("--group", "by", type=click.Choice(GROUPS), help="Count them by what they have in common.")
@in_states
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines.")
@as_json
def list_(*, by: Any, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List letters, oldest first, or their groups, the largest first."""
    bus, letters = connected_app(), Letters(states=states_of(states))
    if by is not None:
        show_groups(dead_letters.groups(by, letters, bus=bus), by, limit, as_json=as_json)
        return
    found = list(islice(dead_letters.find(letters, bus=bus), limit))
    if as_json:
        print_json([as_object(kept) for kept in found])
        return
    show_list(found, bus.stores.dead_letters.count_by_state(), is_cut=len(found) == limit)


@command.command
@click.argument("letter_id", metavar="ID")
@as_json
def show(letter_id: str, *, as_json: bool) -> None:
    """Show a letter: its error, its attempts, its event or bytes, and what became of it."""
    kept = dead_letters.get(letter_id, bus=connected_app())
    if as_json:
        print_json(as_object(kept))
        return
    show_letter(kept)


@command.command
@click.argument("letter_id", metavar="ID")
@click.option("--file", type=click.File(encoding="utf-8"), help="The new event as JSON; - reads it from the pipe.")
@click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change one place, such as content.text=Hello."
)
@click.option("--to", metavar="SUBSCRIPTION", help="Let it go to another subscription.")
@an_operator
@as_json
def edit(
    letter_id: str,
    *,
    file: TextIO | None,
    changes: tuple[str, ...],
    to: str | None,
    operator: str | None,
    as_json: bool,
) -> None:
    """Give a letter another event; without --file and --set, in $EDITOR.

    A new letter stands for it then, and the old one is kept as `replaced`. What the event is stays: its id, type,
    stream, flow and cause; unless it could not be read.
    """
    if file and changes:
        raise click.UsageError("give the event either whole, by --file, or by its places, with --set")
    bus = connected_app()
    configured_agents()  # the event types that they define are known from here on
    kept = dead_letters.get(letter_id, bus=bus)
    event = event_for(kept, file.read() if file else None, changes)
    new = dead_letters.edit(letter_id, event, to=to, operator=operator, bus=bus)
    if as_json:
        print_json(as_object(dead_letters.get(new.id, bus=bus)))
        return
    console = open_console()
    console.print(f"{new.id} stands for it now, for {new.subscription}", soft_wrap=True)
    console.print(f"replay it: {as_typed(f'dead-letters replay {new.id}')}", soft_wrap=True)


@command.command
@chosen
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most so many in a second.")
@click.option(
    "--canary", type=click.IntRange(min=1), metavar="K", help="So many go first; the rest only if they succeed."
)
@click.option("--wait", is_flag=True, help="Wait for the outcome of each, and count them.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long outcomes are waited for, of the canary and of all.",
)
@click.option("--dry-run", is_flag=True, help="Only count what would be delivered.")
@an_operator
@as_json
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
    as_json: bool,
) -> None:
    """Deliver letters again: those named, those of a group, or all that are pending or failed again.

    Each is delivered once, whoever else asks at the same time. With --canary, the exit code is 1 where the rest was
    left untouched.
    """
    letters, bus = letters_of(ids, wanted, states, all_of_them=all_of_them), connected_app()
    if dry_run:
        show_plan(dead_letters.plan(letters, bus=bus), as_json=as_json)
        return
    if ids and len(ids) == 1:
        # One that cannot be replayed is an error; of many, each is counted.
        _refuse(dead_letters.plan(letters, bus=bus).refused)
    with progress("replaying") as advance:
        done = dead_letters.replay(
            letters,
            rate_hz=rate,
            canary=canary or 0,
            wait=wait,
            timeout=timedelta(seconds=timeout),
            operator=operator,
            on_sent=advance,
            bus=bus,
        )
    show_replay(done, as_json=as_json)
    if done.stopped:
        sys.exit(1)


@command.command
@chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@an_operator
@as_json
def discard(
    ids: tuple[str, ...],
    *,
    wanted: dict[str, str],
    all_of_them: bool,
    states: tuple[str, ...],
    yes: bool,
    operator: str | None,
    as_json: bool,
) -> None:
    """Remove letters for good: those named, those of a group, or all.

    Those that are being replayed stay, unless --state replaying names them.
    """
    letters, bus = letters_of(ids, wanted, states, all_of_them=all_of_them), connected_app()
    total = sum(1 for _ in dead_letters.find(dead_letters.discardable(letters), bus=bus))
    if total and not yes:
        hint = "save them before, if in doubt: petiole dead-letters export FILE"
        click.confirm(f"discard {total:,} dead letters ({letters})? {hint}\n", abort=True, err=True)
    with progress("discarding") as advance:
        removed = dead_letters.discard(
            letters, operator=operator, on_discarded=lambda count: advance(count, total), bus=bus
        )
    if as_json:
        print_json({"discarded": removed})
    else:
        open_console().print(f"discarded {removed:,}")


@command.command
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False))
@in_states
def export(file: TextIO, states: tuple[str, ...]) -> None:
    """Write letters to FILE as lines of JSON, oldest first; - writes them to the pipe."""
    count = dead_letters.export_to(file, Letters(states=states_of(states)), bus=connected_app())
    file.flush()
    open_console(stderr=True).print(f"exported {count:,}")


@command.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@an_operator
@as_json
def import_(file: TextIO, *, operator: str | None, as_json: bool) -> None:
    """Keep the letters of FILE, which an export wrote; - reads the pipe. Those that are known stay as they are."""
    done = dead_letters.import_from(file, operator=operator, bus=connected_app())
    if as_json:
        print_json({"imported": done.imported, "known": done.known})
    else:
        open_console().print(f"imported {done.imported:,}; known before: {done.known:,}")


def _refuse(refused: tuple[UsageError, ...]) -> None:
    for refusal in refused:
        raise refusal
