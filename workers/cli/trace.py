"""Show the events of a flow as a tree by causation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from petiole.tasks.stores.history import History, RecordedEvent
from petiole.workers.cli._console import (
    TreeRow,
    build_tree_rows,
    group_by_flow,
    open_console,
    print_json,
    publisher_name,
    recorded_at_ms,
    render_tree,
)
from petiole.workers.cli._options import connected_app, format_command, json_option
from petiole.workers.observability.printable import replace_unprintable


@click.command
@click.argument("identifier", metavar="ID")
@json_option
def command(identifier: str, *, as_json: bool) -> None:
    """Show the events of a flow as a tree by causation, with times.

    ID is the correlation id of one flow, or a stream id for all flows of a conversation.
    """
    recorded = _find_flow(connected_app().stores.history, identifier)
    if not recorded:
        tail = format_command("tail --from-start --timeout 1")
        raise click.ClickException(f"no flow or stream {identifier!r} is recorded; list the recorded events: {tail}")
    if as_json:
        print_json([_row_as_json(row) for flow in group_by_flow(recorded).values() for row in build_tree_rows(flow)])
    else:
        _print_tree(recorded)


def _find_flow(history: History, identifier: str) -> list[RecordedEvent]:
    return history.read_flow(identifier) or history.read_stream(identifier)


def _print_tree(recorded: Sequence[RecordedEvent]) -> None:
    console = open_console()
    for correlation_id, flow in group_by_flow(recorded).items():
        began = datetime.fromtimestamp(recorded_at_ms(flow[0]) / 1_000, UTC).astimezone()
        stream_id = flow[0].attributes["stream_id"]
        console.print(
            replace_unprintable(f"{began:%Y-%m-%d %H:%M:%S}  flow {correlation_id}  stream {stream_id}"), style="bold"
        )
        console.print(render_tree(flow))
        console.print()


def _row_as_json(row: TreeRow) -> dict[str, object]:
    document = row.recorded.document_or_stub
    return {"depth": row.depth, "offset_ms": row.offset_ms, "publisher": publisher_name(document), "event": document}
