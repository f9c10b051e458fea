"""List the circuit breakers; open or close one manually."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import click

from petiole.events.errors import UsageError
from petiole.tasks.resilience.circuit_breaker import force_state
from petiole.tasks.stores.circuits import Circuit
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import POSITIVE, acting, connected_app, json_option, operator_option, reason_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the circuit breakers of the agents' dependencies: state, consecutive failures, time, next probe.

    A breaker is listed from its first call.
    """
    if ctx.invoked_subcommand is not None:
        return
    circuits = list(connected_app().stores.circuits.all())
    if as_json:
        print_json([_circuit_as_json(circuit) for circuit in circuits])
        return
    cells = [
        (
            circuit.name,
            circuit.state,
            circuit.failures,
            _format_time(circuit.since),
            _next_probe(circuit),
            circuit.error or "-",
        )
        for circuit in circuits
    ]
    open_console().print(
        render_table(("name", "state", "failures", "since", "next probe", "last change"), cells, numbers=("failures",))
    )


@command.command("open")
@click.argument("name")
@click.option(
    "--for",
    "seconds",
    type=POSITIVE,
    metavar="S",
    help="Probe the dependency after this many seconds.",
)
@operator_option
@reason_option
def open_(name: str, seconds: float | None, operator: str | None, reason: str) -> None:
    """Open the breaker NAME: no worker calls the dependency until the breaker is closed, or for --for seconds.

    Deliveries that need the dependency are deferred, which uses up no attempt.
    """
    probe_after = None if seconds is None else timedelta(seconds=seconds)
    _set_state(name, "open", probe_after, operator=operator, reason=reason)


@command.command
@click.argument("name")
@operator_option
@reason_option
def close(name: str, operator: str | None, reason: str) -> None:
    """Close the breaker NAME: all workers may call the dependency again."""
    _set_state(name, "closed", None, operator=operator, reason=reason)


def _set_state(
    name: str, state: Literal["open", "closed"], probe_after: timedelta | None, *, operator: str | None, reason: str
) -> None:
    bus = connected_app()
    try:
        with acting(bus, f"circuit.{state}", name, operator=operator, reason=reason):
            is_change = force_state(bus, name, state, probe_after, by=operator)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    open_console().print(f"{name} is {state}{'' if is_change else ' already'}")


def _circuit_as_json(circuit: Circuit) -> dict[str, object]:
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
        return "in progress"
    if circuit.state == "closed":
        return "-"
    if circuit.due is None:
        return "after it is closed manually"
    return _format_time(circuit.due) if circuit.due > datetime.now(UTC) else "at the next call"


def _format_time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
