"""What the commands of `petiole dead-letters` share: which letters are meant, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from petiole.tasks.dead_letters import DEAD_LETTER_STATES, DeadLetterQuery, parse_states
from petiole.workers.cli._console import open_console

GROUP_FIELDS = ("cause", "fingerprint", "subscription", "stream")

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])


state_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([*DEAD_LETTER_STATES, "all"]),
    help="In this state; may be repeated. Without it, those that nobody is done with.",
)


def selection_options(command: CommandFunction) -> CommandFunction:
    """Let a command say which letters it means: by id, by what they have in common, or all."""
    for option in (
        state_option,
        click.option("--all", "all_of_them", is_flag=True, help="All that are in that state."),
        click.option(
            "--group",
            "wanted",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_parse_groups,
            help=f"All of a group: {', '.join(GROUP_FIELDS)}, such as cause=poison; may be repeated.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def build_query(
    ids: Sequence[str], wanted: dict[str, str], states: Sequence[str], *, all_of_them: bool
) -> DeadLetterQuery:
    """Read which letters are meant. Raises UsageError where that is not said, or said twice."""
    if sum((bool(ids), bool(wanted), all_of_them)) != 1:
        raise click.UsageError("say which letters: their ids, --group cause=poison, or --all; one of these")
    if ids and states:
        raise click.UsageError("letters that are named by id are taken in whatever state they are; leave out --state")
    return DeadLetterQuery(ids=tuple(ids), states=parse_states(states), **wanted)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], object]]:
    """Draw a bar in a terminal; gives what advances it by a number, of so many in all."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda count, total: bars.update(bar, advance=count, total=total)


def _parse_groups(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:  # noqa: ARG001 - click's signature
    wanted: dict[str, str] = {}
    for value in values:
        name, is_there, asked = value.partition("=")
        if name not in GROUP_FIELDS or not is_there or not asked:
            raise click.BadParameter(
                f"{value!r}: write one of {', '.join(GROUP_FIELDS)}, '=' and a value: cause=poison"
            )
        if wanted.setdefault(name, asked) != asked:
            raise click.BadParameter(f"{value!r}: {name} was given before as {wanted[name]!r}; no letter has both")
    return wanted
