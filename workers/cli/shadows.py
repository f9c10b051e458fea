"""Compare the events of shadow handlers with the published events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import click

from petiole.tasks.patterns.shadow_traffic import ShadowComparison, compare
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import connected_app, json_option
from petiole.workers.observability.flow_tree import summarize_content
from petiole.workers.observability.printable import replace_unprintable


@click.command
@click.argument("subscription", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="The maximum number of events."
)
@json_option
def command(subscription: str | None, *, limit: int, as_json: bool) -> None:
    """Show for the last events that the shadow SUBSCRIPTION handled its own events and the published events.

    Without SUBSCRIPTION, list the shadows.
    """
    bus = connected_app()
    if subscription is None:
        names = [subscription.name for subscription in bus.stores.directory.read()[1] if subscription.shadow]
        _print_comparisons({name: bus.stores.shadows.count(name) for name in names}, as_json=as_json)
        return
    comparisons = list(compare(subscription, limit=limit, bus=bus))
    if as_json:
        print_json([asdict(one) | {"at": one.at.isoformat()} for one in comparisons])
        return
    for comparison in comparisons:
        _print_comparison(comparison)
    if not comparisons:
        open_console().print(
            f"no events are recorded for {replace_unprintable(subscription)}; list the shadows: petiole shadows"
        )


def _print_comparisons(kept: Mapping[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": name, "kept": count} for name, count in kept.items()])
    elif kept:
        open_console().print(render_table(("shadow", "events"), kept.items(), numbers=("events",)))
    else:
        open_console().print("no handler is a shadow; make one with shadow=True")


def _print_comparison(comparison: ShadowComparison) -> None:
    console = open_console()
    console.print(
        replace_unprintable(
            f"{comparison.at:%Y-%m-%d %H:%M:%S}  {comparison.event_type}  stream {comparison.stream_id}"
        ),
        style="bold",
    )
    for heading, documents in (("shadow", comparison.shadow_events), ("published", comparison.agent_events)):
        for document in documents:
            console.print(
                replace_unprintable(f"    {heading:<10} {document['event_type']}  {summarize_content(document)}")
            )
        if not documents:
            console.print(f"    {heading:<10} nothing")
