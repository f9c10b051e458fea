"""Show the events of a flow: who got each, attempt by attempt, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from petiole.tasks.operations.delivery_trace import trace_deliveries
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import History, RecordedEvent
from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import connected_app, format_command, json_option, load_types
from petiole.workers.cli._waterfall import render_waterfall, waterfall_as_json
from petiole.workers.observability.flow_tree import group_by_flow, recorded_at_ms
from petiole.workers.observability.printable import replace_unprintable

_EVENTS_PER_FLOW = 200
"""The last flows are looked for among this many events each."""


@click.command
@click.argument("identifier", metavar="[ID]", required=False)
@click.option("--stream", "stream_id", metavar="ID", help="Show the flows of this stream.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show the last N flows, of all or of the stream.")
@json_option
def command(identifier: str | None, stream_id: str | None, last: int | None, *, as_json: bool) -> None:
    """Show the events of a flow as a tree by causation; below each its deliveries and their failed attempts, over time.

    ID is the correlation id of one flow, or a stream id for all flows of a conversation. Deliveries are those to the
    current subscriptions that were announced before the event. `ended` means that a delivery was handled, or dropped by
    a full queue that drops its oldest. Failed attempts are kept until a delivery is handled.
    """
    if (identifier is not None and stream_id is not None) or (identifier, stream_id, last) == (None, None, None):
        raise click.UsageError("give an ID, --stream or --last")
    bus = connected_app()
    load_types(bus)
    flows = list(group_by_flow(_read_events(bus.stores.history, identifier, stream_id, last)).values())
    if not flows:
        tail = format_command("tail --from-start --timeout 1")
        wanted = f"flow or stream {identifier or stream_id!r}" if identifier or stream_id else "event"
        raise click.ClickException(f"no {wanted} is recorded; list the recorded events: {tail}")
    flows = flows[-last:] if last else flows
    if as_json:
        print_json([row for flow in flows for row in waterfall_as_json(flow, trace_deliveries(bus, flow))])
    else:
        for flow in flows:
            _print_flow(bus, flow)


def _read_events(
    history: History, identifier: str | None, stream_id: str | None, last: int | None
) -> Sequence[RecordedEvent]:
    if identifier is not None:
        return history.read_flow(identifier) or history.read_stream(identifier)
    if stream_id is not None:
        return history.read_stream(stream_id)
    recent = history.read_last(_EVENTS_PER_FLOW * (last or 1))
    # The history may have begun a flow before these events.
    flow_ids = list(group_by_flow(recent))[-(last or 1) :]
    return [recorded for flow_id in flow_ids for recorded in history.read_flow(flow_id)]


def _print_flow(bus: BusRuntime, flow: Sequence[RecordedEvent]) -> None:
    console = open_console()
    first = flow[0]
    began = datetime.fromtimestamp(recorded_at_ms(first) / 1_000, UTC).astimezone()
    flow_id, stream_id = first.attributes["correlation_id"], first.attributes["stream_id"]
    console.print(replace_unprintable(f"{began:%Y-%m-%d %H:%M:%S}  flow {flow_id}  stream {stream_id}"), style="bold")
    for line in render_waterfall(flow, trace_deliveries(bus, flow)):
        console.print(line, soft_wrap=True)
    console.print()
