"""Deliver events of the history again to one subscription."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from uuid import uuid4

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from petiole.events.subscription_checks import check_known
from petiole.tasks.operations.history_replay import HistoryReplay, ReplayEvents, select_events, send_deliveries
from petiole.tasks.stores.history import HistoryQuery
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import (
    PATTERN,
    POSITIVE,
    TIME,
    acting,
    connected_app,
    format_command,
    json_option,
    operator_option,
    reason_option,
)
from petiole.workers.process.discovery import configured_agents


@click.command
@click.argument("subscription")
@click.option("--stream", metavar="ID", help="Events of this conversation.")
@click.option("--correlation", metavar="ID", help="Events of this flow.")
@click.option("--since", type=TIME, help="Events recorded since this time: 30m, 2h, 3d ago, or 2026-01-31T12:00.")
@click.option("--until", type=TIME, help="Events recorded before this time.")
@click.option("--pattern", type=PATTERN, help="Events of these topics, such as 'input.*'.")
@click.option("--id", "replay_id", metavar="ID", help="Repeat the replay with this id; no event is delivered twice.")
@click.option(
    "--rate",
    type=POSITIVE,
    metavar="N",
    help="The maximum number of deliveries per second.",
)
@click.option("--dry-run", is_flag=True, help="Only count the events, by topic.")
@operator_option
@reason_option
@json_option
def command(
    subscription: str,
    *,
    stream: str | None,
    correlation: str | None,
    since: datetime | None,
    until: datetime | None,
    pattern: str | None,
    replay_id: str | None,
    rate: float | None,
    dry_run: bool,
    operator: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Deliver events of the history again to SUBSCRIPTION only, such as memory.remember.

    Without options it gets all recorded events that match it. The events that its handler returns are published.
    """
    bus = connected_app()
    configured_agents()  # registers the event types that the agents define
    if pattern is not None:
        check_known(pattern, bus.event_registry)
    events = select_events(bus, subscription, HistoryQuery(stream, correlation, pattern, since, until))
    counts = Counter(event.event_type for _, event in events)
    if dry_run:
        _print_counts(counts, events, as_json=as_json)
        return
    replay_id = replay_id or str(uuid4())
    target = f"{counts.total()} events to {subscription}, as {replay_id}"
    with acting(bus, "history.replayed", target, operator=operator, reason=reason):
        done = _replay_events(events, replay_id, rate, total=counts.total())
    _print_replay(done, as_json=as_json)


def _replay_events(events: ReplayEvents, replay_id: str, rate: float | None, *, total: int) -> HistoryReplay:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("replaying", total=total)
        return send_deliveries(events, replay_id, rate_hz=rate, on_sent=lambda: progress.advance(bar))


def _print_counts(counts: Counter[str], events: ReplayEvents, *, as_json: bool) -> None:
    unreadable = len(events.unreadable)
    if as_json:
        print_json({"subscription": events.subscription.name, "would_send": counts, "unreadable": events.unreadable})
        return
    console = open_console()
    if counts:
        console.print(render_table(("topic", "events"), sorted(counts.items()), numbers=("events",)))
    console.print(f"{counts.total()} would be delivered to {events.subscription.name}; nothing was sent")
    _warn_of_unreadable(unreadable)


def _print_replay(done: HistoryReplay, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": done.id, "subscription": done.subscription, "sent": done.sent, "unreadable": done.unreadable})
        return
    console = open_console()
    console.print(f"replayed {done.sent} to {done.subscription}", style="bold")
    again = format_command(f"replay {done.subscription} … --id {done.id}")
    console.print(f"to repeat it without delivering an event twice: {again}")
    _warn_of_unreadable(len(done.unreadable))


def _warn_of_unreadable(unreadable: int) -> None:
    if unreadable:
        reason = "their event type is unknown here (see PETIOLE_AGENTS), or their content has expired"
        open_console(stderr=True).print(f"{unreadable} events could not be read: {reason}")
