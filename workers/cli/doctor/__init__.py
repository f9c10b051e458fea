"""Find misconfigurations of servers, workers and subscriptions, and say what to do."""

from __future__ import annotations

from dataclasses import asdict

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from petiole.events.errors import PetioleError
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.transport.address import mask_secrets
from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import connected_app, json_option, load_types
from petiole.workers.cli.doctor.checks import Diagnosis, check_server, find_problems
from petiole.workers.cli.doctor.facts import read_facts, read_server_facts
from petiole.workers.observability.readiness import find_server_problem


@click.command
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """Check servers, workers, beats, queues, subscriptions, settings and versions. Changes nothing.

    Each finding says what to do. Exits with 0 without findings, else with 1.
    """
    findings = _examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    ctx.exit(1 if findings else 0)


def _examine() -> list[Diagnosis]:
    try:
        bus = connected_app()
        load_types(bus)
        _ = bus.redactor, bus.trust  # both raise if their settings cannot be used: nothing could be published
        if reason := find_server_problem(bus):
            return _examine_servers(bus) or [_unreachable(reason)]
    except PetioleError as error:
        problem, _, remedy = str(error).partition("; ")
        return [Diagnosis("configuration", mask_secrets(problem), remedy or "correct it")]
    return _examine_running(bus)


def _unreachable(reason: str) -> Diagnosis:
    problem, _, remedy = reason.partition("; ")
    return Diagnosis("unreachable", mask_secrets(problem), remedy or "start it, or correct its address")


def _examine_servers(bus: BusRuntime) -> list[Diagnosis]:
    """Check the servers alone: one that refuses writes (a replica, a full one) still describes itself."""
    try:
        return [finding for server in read_server_facts(bus) for finding in check_server(server)]
    except (RedisError, OperationalError):
        return []  # the reason why it is not ready is shown instead


def _examine_running(bus: BusRuntime) -> list[Diagnosis]:
    try:
        return find_problems(read_facts(bus))
    except (RedisError, OperationalError) as error:
        return _examine_servers(bus) or [Diagnosis("interrupted", f"a server failed: {error}", "repeat this command")]


def _print(findings: list[Diagnosis]) -> None:
    console = open_console()
    for finding in findings:
        console.print(f"{finding.code}: {finding.problem}", soft_wrap=True, style="yellow")
        console.print(f"    {finding.remedy}", soft_wrap=True)
    console.print(f"{len(findings)} findings" if findings else "healthy: no findings")
