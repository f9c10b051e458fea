"""Options of the `petiole dead-letters` commands that select letters, and a progress bar."""

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
    help="Letters in this state; may be repeated. By default those that need attention.",
)


def selection_options(command: CommandFunction) -> CommandFunction:
    """Add the options that select letters: by id, by group, or all."""
    for option in (
        state_option,
        click.option("--all", "all_of_them", is_flag=True, help="All letters in the selected states."),
        click.option(
            "--group",
            "wanted",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_parse_groups,
            help=f"All letters of a group: {', '.join(GROUP_FIELDS)}, such as cause=poison; may be repeated.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def build_query(
    ids: Sequence[str], wanted: dict[str, str], states: Sequence[str], *, all_of_them: bool
) -> DeadLetterQuery:
    """Build the query of the selected letters. Raises UsageError unless exactly one kind of selection is given."""
    if sum((bool(ids), bool(wanted), all_of_them)) != 1:
        raise click.UsageError("select letters by id, by --group cause=poison, or by --all; use one of these")
    if ids and states:
        raise click.UsageError("ids select letters in every state; leave out --state")
    return DeadLetterQuery(ids=tuple(ids), states=parse_states(states), **wanted)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], object]]:
    """Show a progress bar in a terminal; yield a function that takes the advance and the total."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda count, total: bars.update(bar, advance=count, total=total)


def _parse_groups(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:  # noqa: ARG001 - click's signature
    wanted: dict[str, str] = {}
    for value in values:
        name, separator, group = value.partition("=")
        if name not in GROUP_FIELDS or not separator or not group:
            raise click.BadParameter(
                f"{value!r}: write one of {', '.join(GROUP_FIELDS)}, '=' and a value: cause=poison"
            )
        if wanted.setdefault(name, group) != group:
            raise click.BadParameter(f"{value!r}: {name} is also given as {wanted[name]!r}; no letter has both")
    return wanted
