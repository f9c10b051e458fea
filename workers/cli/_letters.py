"""What the commands of `petiole dead-letters` share: which letters are meant, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from events.errors import CannotReplay
from tasks.dead_letters import STATES, Kept, Letters, states_of
from workers.console import open_console, print_json

GROUPS = ("cause", "fingerprint", "subscription", "stream")
_SHOWN_REFUSALS = 5

Command = TypeVar("Command", bound=Callable[..., Any])


def chosen(command: Command) -> Command:
    """Let a command say which letters it means: by id, by what they have in common, or all."""
    for option in (
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice([*STATES, "all"]),
            help="In this state; may be repeated. Without it, those that nobody is done with.",
        ),
        click.option("--all", "all_of_them", is_flag=True, help="All that are in that state."),
        click.option(
            "--group",
            "wanted",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_group,
            help=f"All of a group: {', '.join(GROUPS)}, such as cause=poison; may be repeated.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def letters_of(ids: Sequence[str], wanted: dict[str, str], states: Sequence[str], *, all_of_them: bool) -> Letters:
    """Read which letters are meant. Raises UsageError where that is not said, or said twice."""
    if sum((bool(ids), bool(wanted), all_of_them)) != 1:
        raise click.UsageError("say which letters: their ids, --group cause=poison, or --all; one of these")
    if ids and states:
        raise click.UsageError("letters that are named by id are taken in whatever state they are; leave out --state")
    return Letters(ids=tuple(ids), states=states_of(states), **wanted)


@contextmanager
def progress(word: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Draw a bar in a terminal; gives what advances it."""
    columns = (TextColumn(word), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(word, total=total)
        yield lambda count: bars.advance(bar, count)


def as_object(kept: Kept) -> dict[str, object]:
    """Write a letter as JSON, with what became of it."""
    shown: dict[str, object] = kept.letter.model_dump(mode="json", exclude_none=True)
    shown |= {"state": kept.state, "replays": kept.replays}
    if kept.replayed_at is not None:
        shown |= {"replayed_at": kept.replayed_at.isoformat(), "replayed_by": kept.replayed_by}
    return shown


def age(moment: datetime) -> str:
    """Tell how long ago a moment was."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"


def warn_of(refused: Sequence[CannotReplay]) -> None:
    """Show letters that could not be replayed, each reason once with how many have it."""
    reasons: dict[str, list[str]] = {}
    for each in refused:
        reasons.setdefault(each.reason, []).append(each.letter_id)
    console = open_console(stderr=True)
    for reason, ids in list(reasons.items())[:_SHOWN_REFUSALS]:
        named = ids[0] if len(ids) == 1 else f"{len(ids):,} letters, such as {ids[0]},"
        console.print(f"not replayed: {named}: {reason}")
    if len(reasons) > _SHOWN_REFUSALS:
        console.print(f"and {len(reasons) - _SHOWN_REFUSALS} reasons more; --json names all")


def print_refused(refused: Sequence[CannotReplay], **more: object) -> None:
    """Print a result as JSON, with what was refused."""
    print_json(more | {"refused": [{"id": each.letter_id, "reason": each.reason} for each in refused]})


def _group(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:  # noqa: ARG001 - click's signature
    wanted: dict[str, str] = {}
    for value in values:
        name, is_there, asked = value.partition("=")
        if name not in GROUPS or not is_there or not asked:
            raise click.BadParameter(f"{value!r}: write one of {', '.join(GROUPS)}, '=' and a value: cause=poison")
        if wanted.setdefault(name, asked) != asked:
            raise click.BadParameter(f"{value!r}: {name} was given before as {wanted[name]!r}; no letter has both")
    return wanted
