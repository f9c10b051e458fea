"""Show what followed from what, as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from tasks.stores.history import History, Recorded
from workers.cli._options import as_json, as_typed, connected_app
from workers.console import Row, flows, open_console, plain, print_json, recorded_ms, rows, speaker, tree


@click.command
@click.argument("identifier", metavar="ID")
@as_json
def command(identifier: str, *, as_json: bool) -> None:
    """Show what followed from what, as a tree with times.

    ID is a correlation id, for one flow, or a stream id, for each flow of a conversation.
    """
    recorded = _find(connected_app().stores.history, identifier)
    if not recorded:
        known = as_typed("tail --from-start --timeout 1")
        raise click.ClickException(f"no flow and no stream {identifier!r} is kept; see what is: {known}")
    if as_json:
        print_json([_as_object(each) for flow in flows(recorded).values() for each in rows(flow)])
    else:
        _draw(recorded)


def _find(history: History, identifier: str) -> list[Recorded]:
    return history.of_flow(identifier) or history.of_stream(identifier)


def _draw(recorded: Sequence[Recorded]) -> None:
    console = open_console()
    for correlation_id, flow in flows(recorded).items():
        began = datetime.fromtimestamp(recorded_ms(flow[0]) / 1_000, UTC).astimezone()
        stream_id = flow[0].attributes["stream_id"]
        console.print(plain(f"{began:%Y-%m-%d %H:%M:%S}  flow {correlation_id}  stream {stream_id}"), style="bold")
        console.print(tree(flow))
        console.print()


def _as_object(row: Row) -> dict[str, object]:
    document = row.recorded.shown
    return {"depth": row.depth, "offset_ms": row.offset_ms, "speaker": speaker(document), "event": document}
