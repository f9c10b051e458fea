"""Show the counters of all processes: events that nobody subscribes to, late, aborted, retried and dropped ones."""

from __future__ import annotations

import click

from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import connected_app, json_option

MEANINGS = {
    "aborted": "deliveries that ended because their flow was aborted",
    "calls_without_breaker": "calls made while the state store of the circuit breakers was unreachable",
    "dead_lettered": "deliveries that became dead letters",
    "dropped_oldest": "deliveries dropped from a full queue",
    "errors": "errors on the error channel, by severity",
    "parked": "deliveries parked for a handler or event type that no worker had",
    "replies_unmatched": "replies that came late, twice, or from the wrong responder",
    "retried": "attempts that failed and were followed by another",
    "session_events_rejected": "events refused because their session had ended",
    "shadow_events_suppressed": "events of shadow handlers, which are never published",
    "suggestions_dropped": "suggestions that could not be shown to their user",
    "unrouted": "events to which nothing subscribed",
}
"""What a counter counts. Part of its name may follow a colon: a queue, or a severity."""


@click.command
@json_option
def command(*, as_json: bool) -> None:
    """List the counters of all processes since the state store was created. A counter that counted nothing is 0."""
    counts = dict.fromkeys(MEANINGS, 0) | connected_app().stores.counters.all()
    if as_json:
        print_json(dict(sorted(counts.items())))
        return
    cells = [(name, f"{count:,}", MEANINGS.get(name.partition(":")[0], "-")) for name, count in sorted(counts.items())]
    open_console().print(render_table(("counter", "count", "counts"), cells, numbers=("count",)))
