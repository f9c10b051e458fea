"""Try the promises of the backbone on brokers, and print a table."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from petiole.tasks.transport.address import mask_address
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import json_option
from petiole.workers.conformance import promises
from petiole.workers.conformance.promises import IsKept, PromiseResult, try_promises
from petiole.workers.conformance.system import System

_WORDS = {True: "kept", False: "BROKEN", None: "-"}


@click.command
@click.option("--broker", "brokers", multiple=True, metavar="URL", help="redis://… or amqp://…; may be repeated.")
@click.option("--state-store", default="", metavar="URL", help="The Redis beside a RabbitMQ.")
@json_option
@click.pass_context
def command(ctx: click.Context, brokers: tuple[str, ...], state_store: str, *, as_json: bool) -> None:
    """Try the same promises in this process and on each broker, and print a table. Takes half a minute per broker.

    The run has keys and queues of its own and deletes them afterwards, but for the queue `publish` of RabbitMQ: give a
    virtual host that nothing else uses. '-' stands for what cannot be tried: in one process, worker and bus begin and
    end together; order needs broker and state store to be one Redis. Exits with 1 if a promise is broken, else with 0.
    """
    for broker in brokers:
        if not broker.startswith(("redis", "rediss", "sentinel")) and not state_store:
            raise click.UsageError(f"{mask_address(broker)} stores no state; give a Redis with --state-store")
    results: dict[str, dict[str, IsKept]] = defaultdict(dict)
    for broker in ("", *brokers):
        with _quiet(), closing(System(broker, "" if broker.startswith("redis") else state_store)) as system:
            for result in _show_progress(system):
                results[result.promise][system.name] = result.is_kept
    if as_json:
        print_json(results)
    else:
        columns = list(results[next(iter(promises.PROMISES))])
        cells = [(promise, *(_WORDS[results[promise][column]] for column in columns)) for promise in results]
        open_console().print(render_table(("promise", *columns), cells))
    ctx.exit(1 if any(False in each.values() for each in results.values()) else 0)


def _show_progress(system: System) -> Iterator[PromiseResult]:
    """Try the promises on a system, with a bar on a terminal."""
    click.echo(f"trying {system.name}", err=True)
    console, columns = open_console(stderr=True), (BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(try_promises(system), total=len(promises.PROMISES))


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing: handlers of the run fail on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
