"""List the open sessions; show or end one."""

from __future__ import annotations

import difflib
from itertools import islice

import click

from petiole.events.errors import unknown_session
from petiole.tasks import Session, end_session
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.sessions import SessionInfo
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import acting, connected_app, json_option, operator_option

_PAGE_ROWS = 500

_MAX_CANDIDATES = 1_000
"""Among how many open sessions the one with the nearest name is looked for."""

limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The maximum number of sessions."
)


@click.group(invoke_without_command=True)
@limit_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, limit: int, as_json: bool) -> None:
    """List the open sessions, the longest inactive first.

    A session begins with the first message of its stream. It ends when it is closed, or after
    PETIOLE_SESSION_END_TIMEOUT_S without activity.
    """
    if ctx.invoked_subcommand is None:
        _print_sessions(connected_app(), limit, as_json=as_json)


@command.command("list")
@limit_option
@json_option
def list_(*, limit: int, as_json: bool) -> None:
    """Do the same as `petiole sessions`."""
    _print_sessions(connected_app(), limit, as_json=as_json)


@command.command
@click.argument("session_id", metavar="ID")
@json_option
def show(session_id: str, *, as_json: bool) -> None:
    """Show the session ID: participants, times, working memory, last input events."""
    bus = connected_app()
    session = _find_session(bus, session_id)
    facts, memory, events = session.info, session.memory.all(), session.events()
    if as_json:
        kept = [event.model_dump(mode="json") for event in events]
        print_json(facts.model_dump(mode="json") | {"working_memory": memory, "events": kept})
        return
    rows: list[tuple[object, object]] = [
        (name, value) for name, value in facts.model_dump(mode="json", exclude={"participants"}).items() if value
    ]
    rows += [("participant", " ".join(filter(None, (one.id, one.role, one.name)))) for one in facts.participants]
    rows += [(f"memory {name}", value) for name, value in sorted(memory.items())]
    rows += [(f"{event.timestamp:%H:%M:%S}", event.event_type) for event in events]
    open_console().print(render_table(("field", "value"), rows))


@command.command
@click.argument("session_id", metavar="ID")
@click.option(
    "--reason",
    type=click.Choice(["closed", "failed"]),
    default="closed",
    show_default=True,
    help="The reason in `session.ended`.",
)
@operator_option
def end(session_id: str, reason: str, operator: str | None) -> None:
    """End the session ID: delete its data, and refuse further messages of its stream."""
    bus = connected_app()
    _find_session(bus, session_id)
    with acting(bus, "session.ended", session_id, operator=operator, reason=reason):
        is_first = end_session(session_id, reason="failed" if reason == "failed" else "closed", bus=bus)
    open_console().print(f"{session_id} {'has ended' if is_first else 'had ended before'}")


def _print_sessions(bus: BusRuntime, limit: int, *, as_json: bool) -> None:
    store = bus.stores.sessions
    sessions = (session for session in store.read_many(store.list_open(limit)) if session.state != "ended")
    if (more := store.count_open() - limit) > 0:
        click.echo(f"{more} more sessions are open; list them with --limit {limit + more}", err=True)
    if as_json:
        print_json([session.model_dump(mode="json") for session in sessions])
        return
    headings = ("session", "type", "state", "participants", "began", "last activity")
    cells = map(_build_row, sessions)
    console, page = open_console(), list(islice(cells, _PAGE_ROWS))
    console.print(render_table(headings, page))
    while page := list(islice(cells, _PAGE_ROWS)):
        table = render_table(headings, page)
        table.show_header = False
        console.print(table)


def _build_row(session: SessionInfo) -> tuple[str, ...]:
    return (
        session.session_id,
        session.session_type,
        session.state,
        " ".join(one.id for one in session.participants) or "-",
        f"{session.created_at:%Y-%m-%d %H:%M:%S}",
        f"{session.last_activity:%Y-%m-%d %H:%M:%S}",
    )


def _find_session(bus: BusRuntime, session_id: str) -> Session:
    """Return a known session. Raises UsageError (unknown_session) with the nearest open session."""
    if bus.stores.sessions.get(session_id) is None:
        candidates = bus.stores.sessions.list_open(_MAX_CANDIDATES)
        nearest = difflib.get_close_matches(session_id, candidates, n=1)
        raise unknown_session(session_id, nearest[0] if nearest else None)
    return Session(bus, session_id)
