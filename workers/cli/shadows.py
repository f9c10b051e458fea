"""Hold what shadows would have said against what was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import click

from petiole.tasks.patterns.shadow_traffic import ShadowComparison, compare
from petiole.workers.cli._console import open_console, print_json, render_table, replace_unprintable, summarize_content
from petiole.workers.cli._options import connected_app, json_option


@click.command
@click.argument("subscription", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="At most so many events.")
@json_option
def command(subscription: str | None, *, limit: int, as_json: bool) -> None:
    """Show for the last events that the shadow SUBSCRIPTION handled what it would have said, and what was said.

    Without SUBSCRIPTION, list the shadows there are.
    """
    bus = connected_app()
    if subscription is None:
        names = [each.name for each in bus.stores.directory.read()[1] if each.shadow]
        _print_comparisons({name: bus.stores.shadows.count(name) for name in names}, as_json=as_json)
        return
    found = list(compare(subscription, limit=limit, bus=bus))
    if as_json:
        print_json([asdict(each) | {"at": each.at.isoformat()} for each in found])
        return
    for each in found:
        _print_comparison(each)
    if not found:
        open_console().print(f"nothing is kept of {replace_unprintable(subscription)}; see: petiole shadows")


def _print_comparisons(kept: Mapping[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": name, "kept": count} for name, count in kept.items()])
    elif kept:
        open_console().print(render_table(("shadow", "events kept"), kept.items(), numbers=("events kept",)))
    else:
        open_console().print("there is no shadow; a handler becomes one by shadow=True")


def _print_comparison(comparison: ShadowComparison) -> None:
    console = open_console()
    console.print(
        replace_unprintable(
            f"{comparison.at:%Y-%m-%d %H:%M:%S}  {comparison.event_type}  stream {comparison.stream_id}"
        ),
        style="bold",
    )
    for heading, documents in (("would say", comparison.shadow_events), ("was said", comparison.agent_events)):
        for document in documents:
            console.print(
                replace_unprintable(f"    {heading:<10} {document['event_type']}  {summarize_content(document)}")
            )
        if not documents:
            console.print(f"    {heading:<10} nothing")
