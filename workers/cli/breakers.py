"""List the circuit breakers; open or close one by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from petiole.events.errors import UsageError
from petiole.tasks.resilience.circuit_breaker import set_by_hand
from petiole.tasks.stores.circuits import Circuit
from petiole.workers.cli._console import open_console, print_json, table
from petiole.workers.cli._options import as_json, connected_app


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the circuit breakers of what agents call: state, failures in a row, since when, and the next probe.

    One is listed from its first call on.
    """
    if ctx.invoked_subcommand is not None:
        return
    circuits = list(connected_app().stores.circuits.all())
    if as_json:
        print_json([_as_json(each) for each in circuits])
        return
    cells = [
        (each.name, each.state, each.failures, _shown(each.since), _next_probe(each), each.error or "-")
        for each in circuits
    ]
    open_console().print(
        table(("name", "state", "failures", "since", "next probe", "last change"), cells, numbers=("failures",))
    )


@command.command("open")
@click.argument("name")
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Probe after so many seconds."
)
def open_(name: str, seconds: float | None) -> None:
    """Open the breaker NAME: nobody calls that dependency until it is closed, or --for so long.

    Deliveries that would call it are put off meanwhile, and spend no attempt.
    """
    _set(name, "open", None if seconds is None else timedelta(seconds=seconds))


@command.command
@click.argument("name")
def close(name: str) -> None:
    """Close the breaker NAME: everybody may call that dependency again, whatever its state was."""
    _set(name, "closed", None)


def _set(name: str, state: str, probe_after: timedelta | None) -> None:
    try:
        is_change = set_by_hand(connected_app(), name, "open" if state == "open" else "closed", probe_after)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    open_console().print(f"{name} is {state}{'' if is_change else ' already'}")


def _as_json(circuit: Circuit) -> dict[str, object]:
    return {
        "name": circuit.name,
        "state": circuit.state,
        "epoch": circuit.epoch,
        "failures": circuit.failures,
        "since": circuit.since.isoformat(),
        "next_probe": circuit.due.isoformat() if circuit.due else None,
        "last_change": circuit.error or None,
        "by": circuit.by or None,
    }


def _next_probe(circuit: Circuit) -> str:
    if circuit.state == "half_open":
        return "under way"
    if circuit.state == "closed":
        return "-"
    if circuit.due is None:
        return "when it is closed by hand"
    return _shown(circuit.due) if circuit.due > datetime.now(UTC) else "with the next call"


def _shown(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
