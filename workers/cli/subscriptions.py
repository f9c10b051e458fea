"""List who hears what."""

from __future__ import annotations

import click

from workers.cli._options import as_json, as_typed, connected_app
from workers.console import open_console, print_json, table


@click.command
@as_json
def command(*, as_json: bool) -> None:
    """List who hears what: every subscription, its queue and its patterns.

    Subscriptions stay until they are withdrawn, whether or not a worker runs.
    """
    _, subscriptions = connected_app().stores.directory.read()
    if as_json:
        print_json([{"name": each.name, "queue": each.queue, "patterns": each.patterns} for each in subscriptions])
    elif subscriptions:
        cells = [(each.name, each.queue, "  ".join(each.patterns)) for each in subscriptions]
        open_console().print(table(("subscription", "queue", "patterns"), cells))
    else:
        open_console().print(f"nobody has subscribed yet; workers do when they start: {as_typed('up')}")
