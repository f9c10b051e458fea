"""List the sessions that go on; show one with its working memory; end one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import click

from petiole.events.errors import unknown_session
from petiole.tasks import Session, SessionFacts, end_session
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, print_json, table
from petiole.workers.cli._options import as_json, connected_app


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the sessions that go on, the one in which nothing happened for the longest time first.

    A session begins with the first message of its stream, and ends when it is closed, or when nothing happened in it
    for PETIOLE_SESSION_END_TIMEOUT_S.
    """
    if ctx.invoked_subcommand is None:
        _list(connected_app(), as_json=as_json)


@command.command("list")
@as_json
def list_(*, as_json: bool) -> None:
    """As `petiole sessions` alone."""
    _list(connected_app(), as_json=as_json)


@command.command
@click.argument("session_id", metavar="ID")
@as_json
def show(session_id: str, *, as_json: bool) -> None:
    """Show the session ID: who takes part, its times, its working memory, and the last events that came in."""
    bus = connected_app()
    session = _known(bus, session_id)
    facts, memory, events = session.facts, session.memory.all(), session.events()
    if as_json:
        kept = [event.model_dump(mode="json") for event in events]
        print_json(facts.model_dump(mode="json") | {"working_memory": memory, "events": kept})
        return
    told: list[tuple[object, object]] = [
        (name, value) for name, value in facts.model_dump(mode="json", exclude={"participants"}).items() if value
    ]
    told += [("participant", " ".join(filter(None, (each.id, each.role, each.name)))) for each in facts.participants]
    told += [(f"memory {name}", value) for name, value in sorted(memory.items())]
    told += [(f"{event.timestamp:%H:%M:%S}", event.event_type) for event in events]
    open_console().print(table(("what", "is"), told))


@command.command
@click.argument("session_id", metavar="ID")
@click.option(
    "--reason", type=click.Choice(["closed", "failed"]), default="closed", show_default=True, help="What is told."
)
def end(session_id: str, reason: str) -> None:
    """End the session ID: what was kept for it is deleted, and further messages of its stream are refused."""
    bus = connected_app()
    _known(bus, session_id)
    is_first = end_session(session_id, reason="failed" if reason == "failed" else "closed", bus=bus)
    open_console().print(f"{session_id} {'has ended' if is_first else 'had ended before'}")


def _list(bus: BusRuntime, *, as_json: bool) -> None:
    live = list(_live(bus))
    if as_json:
        print_json([each.model_dump(mode="json") for each in live])
        return
    headings = ("session", "type", "state", "participants", "began", "last activity")
    cells = [
        (
            each.session_id,
            each.session_type,
            each.state,
            " ".join(one.id for one in each.participants) or "-",
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            f"{each.last_activity:%Y-%m-%d %H:%M:%S}",
        )
        for each in live
    ]
    open_console().print(table(headings, cells))


def _live(bus: BusRuntime) -> Iterator[SessionFacts]:
    for session_id in bus.stores.sessions.live():
        if (facts := bus.stores.sessions.get(session_id)) and facts.state != "ended":
            yield facts


def _known(bus: BusRuntime, session_id: str) -> Session:
    """Return a session that there is. Raises UsageError (unknown_session), with the nearest one that goes on."""
    if bus.stores.sessions.get(session_id) is None:
        nearest = difflib.get_close_matches(session_id, bus.stores.sessions.live(), n=1)
        raise unknown_session(session_id, nearest[0] if nearest else None)
    return Session(bus, session_id)
