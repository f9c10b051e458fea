"""Show what the agents remember of a user, or forget it."""

from __future__ import annotations

import click

from petiole.events.catalog.memory import Fact, Forgotten, MemoriesForgottenEvent
from petiole.events.event import EventContext
from petiole.events.ids import SYSTEM_STREAM
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import acting, connected_app, json_option, operator_option, reason_option
from petiole.workers.retrieval.forget_requests import ForgetRequest
from petiole.workers.state import team_state
from petiole.workers.state.forgetting import MemoryOwner, forget


@click.group
def command() -> None:
    """Show what the agents remember of a user, or forget it."""


@command.command
@click.argument("user", metavar="USER")
@json_option
def show(user: str, *, as_json: bool) -> None:
    """Show the facts that USER stated, and the streams with messages by or to USER."""
    bus = connected_app()
    facts = [values[-1] for values in team_state(bus).facts.read(f"user:{user}")]
    counts = _count_messages(bus, user)
    if as_json:
        print_json({"facts": [fact.model_dump(mode="json") for fact in facts], "messages": counts})
        return
    rows: list[tuple[object, object, object]] = [_fact_row(fact) for fact in facts]
    rows += [(f"stream {stream_id}", f"{count} messages", "") for stream_id, count in counts.items()]
    console = open_console()
    if rows:
        console.print(render_table(("what", "value", "since"), rows))
    else:
        console.print("nothing is remembered")


@command.command("forget")
@click.argument("user", metavar="USER")
@operator_option
@reason_option
@json_option
def forget_(user: str, *, operator: str | None, reason: str, as_json: bool) -> None:
    """Delete all facts and messages of USER from the memory, and publish `memory.items.forgotten`.

    The history keeps USER's events until PETIOLE_HISTORY_RETENTION_S has passed; dead letters keep theirs as well.
    """
    bus = connected_app()
    owner = MemoryOwner(user, SYSTEM_STREAM)
    with acting(bus, "memory.forgotten", user, operator=operator, reason=reason):
        forgotten = forget(team_state(bus), owner, ForgetRequest(is_everything=True), bus.now())
        _publish_forgotten(bus, user, forgotten)
    if as_json:
        print_json(forgotten.model_dump(mode="json"))
    else:
        open_console().print(f"forgotten: {forgotten.facts} facts and {forgotten.messages} messages")


def _publish_forgotten(bus: BusRuntime, user: str, forgotten: Forgotten) -> None:
    context = EventContext(source="petiole", user_id=user)
    event = MemoriesForgottenEvent(stream_id=SYSTEM_STREAM, content=forgotten, context=context)
    commit(bus, [validate(bus, event)])


def _count_messages(bus: BusRuntime, user: str) -> dict[str, int]:
    memories = team_state(bus).memories
    counts = {
        stream_id: sum(memory.said_by == user for memory in memories.read(stream_id))
        for stream_id in memories.list_streams(user)
    }
    return {stream_id: count for stream_id, count in counts.items() if count}


def _fact_row(fact: Fact) -> tuple[object, object, object]:
    return fact.attribute, fact.value, f"{fact.said_at:%Y-%m-%d %H:%M:%S}"
