"""Look at deliveries that were given up, mend, replay and discard them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from typing import Any, TextIO

import click

from events.errors import Misuse
from tasks import dead_letters
from tasks.dead_letters import Kept, Letters, LettersReplay, Tally, locked_in, states_of
from workers.cli._letters import (
    GROUPS,
    age,
    as_object,
    chosen,
    letters_of,
    print_refused,
    progress,
    warn_of,
)
from workers.cli._options import as_json, as_typed, connected_app
from workers.console import open_console, plain, print_json, shortened, table
from workers.loading import configured_agents

an_operator = click.option("--operator", metavar="NAME", help="Who does it; without it, user@host.")
states_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([*dead_letters.STATES, "all"]),
    help="In this state; may be repeated. Without it, those that nobody is done with.",
)


@click.group
def command() -> None:
    """Look at deliveries that were given up; mend, replay and discard them.

    Each is kept with its event or its bytes, its error and its attempts, until somebody discards it or it is too old.
    """


@command.command("list")
@click.option("--group", "by", type=click.Choice(GROUPS), help="Count them by what they have in common.")
@states_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines.")
@as_json
def list_(*, by: Any, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List letters, oldest first, or their groups, the largest first."""
    app, letters = connected_app(), Letters(states=states_of(states))
    if by is not None:
        _show_groups(dead_letters.groups(by, letters, app=app), by, limit, as_json=as_json)
        return
    found = list(islice(dead_letters.find(letters, app=app), limit))
    if as_json:
        print_json([as_object(kept) for kept in found])
        return
    console = open_console()
    for kept in found:
        letter = kept.letter
        console.print(f"{letter.id}  {letter.cause}  {kept.state}  {age(letter.at)}", soft_wrap=True)
        console.print(f"    {plain(letter.subscription or '-')}: {_error(kept)}", soft_wrap=True)
    counts = app.stores.dead_letters.count_by_state()
    known = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "none"
    console.print(f"shown: {len(found):,}; kept: {known}", style="dim")
    if len(found) == limit:
        console.print(f"see groups of them: {as_typed('dead-letters list --group cause')}", style="dim")


@command.command
@click.argument("letter_id", metavar="ID")
@as_json
def show(letter_id: str, *, as_json: bool) -> None:
    """Show a letter: its error, its attempts, its event or bytes, and what became of it."""
    kept = dead_letters.get(letter_id, app=connected_app())
    if as_json:
        print_json(as_object(kept))
        return
    letter, console = kept.letter, open_console()
    replayed = f"{kept.replays}, last {age(kept.replayed_at)} by {kept.replayed_by}" if kept.replayed_at else "none"
    facts = {
        "state": kept.state,
        "cause": letter.cause,
        "subscription": letter.subscription or "-",
        "queue": letter.queue or "-",
        "buried": letter.at.isoformat(timespec="milliseconds"),
        "replays": replayed,
        "edited from": letter.edited_from,
        "fingerprint": letter.fingerprint,
        "error": f"{letter.error_type}: {letter.error}",
    }
    console.print(table((letter.id, ""), [(name, value) for name, value in facts.items() if value is not None]))
    for number, attempt in enumerate(letter.attempts, start=1):
        said = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker died"
        console.print(
            plain(f"attempt {number}  {attempt.at.isoformat(timespec='milliseconds')}  {attempt.worker}  {said}")
        )
    for line in letter.traceback.splitlines():
        console.print(plain(line), style="dim", soft_wrap=True)
    if letter.document is not None:
        console.print(plain_lines(json.dumps(letter.document, indent=2)), soft_wrap=True)
    if letter.raw is not None:
        console.print(f"{len(letter.raw):,} bytes: {shortened(ascii(letter.raw[:200]), 200)}", soft_wrap=True)


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
    app = connected_app()
    configured_agents()  # the event types that they define are known from here on
    kept = dead_letters.get(letter_id, app=app)
    event = _object(file.read(), "--file") if file else _changed(kept, changes) if changes else _typed(kept)
    new = dead_letters.edit(letter_id, event, to=to, operator=operator, app=app)
    if as_json:
        print_json(as_object(dead_letters.get(new.id, app=app)))
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
    letters, app = letters_of(ids, wanted, states, all_of_them=all_of_them), connected_app()
    if dry_run:
        _show_plan(letters, as_json=as_json)
        return
    if ids and len(ids) == 1:
        # One that cannot be replayed is an error; of many, each is counted.
        _refuse(dead_letters.plan(letters, app=app).refused)
    total = len(ids) or sum(1 for _ in dead_letters.find(letters, app=app))
    with progress("replaying", total) as advance:
        done = dead_letters.replay(
            letters,
            rate_hz=rate,
            canary=canary or 0,
            wait=wait,
            timeout=timedelta(seconds=timeout),
            operator=operator,
            on_sent=advance,
            app=app,
        )
    _show_replay(done, as_json=as_json)
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
    letters, app = letters_of(ids, wanted, states, all_of_them=all_of_them), connected_app()
    total = sum(1 for _ in dead_letters.find(dead_letters.discardable(letters), app=app))
    if total and not yes:
        hint = "save them before, if in doubt: petiole dead-letters export FILE"
        click.confirm(f"discard {total:,} dead letters ({letters})? {hint}\n", abort=True, err=True)
    with progress("discarding", total) as advance:
        removed = dead_letters.discard(letters, operator=operator, on_discarded=advance, app=app)
    if as_json:
        print_json({"discarded": removed})
    else:
        open_console().print(f"discarded {removed:,}")


@command.command
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False))
@states_option
def export(file: TextIO, states: tuple[str, ...]) -> None:
    """Write letters to FILE as lines of JSON, oldest first; - writes them to the pipe."""
    count = dead_letters.export_to(file, Letters(states=states_of(states)), app=connected_app())
    file.flush()
    open_console(stderr=True).print(f"exported {count:,}")


@command.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@an_operator
@as_json
def import_(file: TextIO, *, operator: str | None, as_json: bool) -> None:
    """Keep the letters of FILE, which an export wrote; - reads the pipe. Those that are known stay as they are."""
    with progress("importing", None) as advance:
        done = dead_letters.import_from(file, operator=operator, on_read=advance, app=connected_app())
    if as_json:
        print_json({"imported": done.imported, "known": done.known})
    else:
        open_console().print(f"imported {done.imported:,}; known before: {done.known:,}")


def plain_lines(text: str) -> str:
    """Strip each line of what drives a terminal."""
    return "\n".join(plain(line) for line in text.splitlines())


def _show_groups(found: list[dead_letters.Group], by: str, limit: int, *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    by: group.name,
                    "letters": group.count,
                    "states": group.states,
                    "oldest": group.oldest.isoformat(),
                    "newest": group.newest.isoformat(),
                    "error": group.error,
                }
                for group in found
            ]
        )
        return
    console = open_console()
    cells = [
        (each.name, each.count, each.states["failed_again"], age(each.oldest), shortened(each.error, 50))
        for each in found[:limit]
    ]
    headings = (by, "letters", "failed again", "oldest", "one of the errors")
    console.print(table(headings, cells, numbers=("letters", "failed again")))
    if len(found) > limit:
        console.print(f"and {len(found) - limit:,} groups more; see --limit", style="dim")


def _show_plan(letters: Letters, *, as_json: bool) -> None:
    plan = dead_letters.plan(letters, app=connected_app())
    if as_json:
        print_refused(plan.refused, would_send=plan.by_subscription)
        return
    console = open_console()
    if plan.by_subscription:
        console.print(table(("subscription", "letters"), plan.by_subscription.most_common(), numbers=("letters",)))
    console.print(f"{plan.by_subscription.total():,} would be replayed; nothing was sent")
    warn_of(plan.refused)


def _show_replay(done: LettersReplay, *, as_json: bool) -> None:
    if as_json:
        print_refused(
            done.refused,
            id=done.id,
            sent=done.sent,
            untouched=done.untouched,
            stopped=done.stopped,
            tally=_as_counts(done.tally),
        )
        return
    console = open_console()
    console.print(f"replayed {len(done.sent):,}", style="bold")
    if done.tally:
        console.print(", ".join(f"{name} {count:,}" for name, count in (_as_counts(done.tally) or {}).items()))
    if done.stopped:
        console.print(f"stopped: {done.stopped}; {done.untouched:,} left untouched")
    elif done.sent and not done.tally:
        console.print(f"see what becomes of them: {as_typed('dead-letters list')}", style="dim")
    warn_of(done.refused)


def _as_counts(tally: Tally | None) -> dict[str, int] | None:
    if tally is None:
        return None
    counts = {"resolved": tally.resolved, "failed_again": tally.failed_again, "replaying": tally.replaying}
    return counts | ({"gone": tally.gone} if tally.gone else {})


def _refuse(refused: tuple[Misuse, ...]) -> None:
    for refusal in refused:
        raise refusal


def _error(kept: Kept) -> str:
    letter = kept.letter
    return shortened(plain(f"{letter.error_type}: {letter.error}"), 120)


def _object(text: str, option: str) -> dict[str, object]:
    try:
        event = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}", param_hint=option) from error
    if not isinstance(event, dict):
        raise click.BadParameter("write the event as a JSON object", param_hint=option)
    return event


def _changed(kept: Kept, changes: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(kept.letter.document, Mapping):
        raise click.BadParameter("this letter has no event to change; give a whole one by --file", param_hint="--set")
    event: dict[str, object] = json.loads(json.dumps(kept.letter.document))
    for change in changes:
        path, is_there, value = change.partition("=")
        if not is_there or not path:
            raise click.BadParameter(
                f"{change!r}: write a path, '=' and a value: content.text=Hello", param_hint="--set"
            )
        _put(event, path.split("."), _value(value), change)
    return event


def _put(event: dict[str, object], path: list[str], value: object, change: str) -> None:
    place: object = event
    for name in path[:-1]:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise click.BadParameter(f"{change!r}: there is no object at {'.'.join(path[:-1])!r}", param_hint="--set")
    place[path[-1]] = value


def _value(text: str) -> object:
    """Read a value as JSON; what is none is a text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _typed(kept: Kept) -> dict[str, object]:
    """Let the operator change the event in an editor."""
    letter = kept.letter
    written = json.dumps(letter.document, indent=2, ensure_ascii=False) if letter.document is not None else "{}"
    locked = ", ".join(locked_in(letter))
    if locked:
        open_console(stderr=True).print(f"these stay as they are: {locked}")
    changed = click.edit(written + "\n", extension=".json")
    if changed is None or changed.strip() == written.strip():
        raise click.ClickException("nothing was changed; save the event in the editor, or give it by --file or --set")
    return _object(changed, "$EDITOR")
