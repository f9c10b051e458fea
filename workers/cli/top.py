"""Watch the agents live: depth, in flight, lag, rates, failures, breakers, rate limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from petiole.events.errors import PetioleError
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.operations.live_figures import NO_WORKER, AgentFigures, LiveFigures, read_live_figures
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.rate_limits import AccountUsage
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import POSITIVE, connected_app, json_option
from petiole.workers.observability.flow_tree import shorten
from petiole.workers.observability.printable import replace_unprintable

_NUMBERS = ("workers", "waiting", "in flight", "lag", "handled/s", "failed/s", "failed", "parked")
_NOT_COUNTED = "rates need counted events: set PETIOLE_METRICS=true for publishers and workers"


@dataclass(frozen=True, slots=True)
class Rates:
    """Handled deliveries and failed attempts of an agent per second."""

    handled_per_s: float
    failed_per_s: float


@click.command
@click.option("--once", is_flag=True, help="Print the figures once, with the rates of one interval.")
@click.option(
    "--interval", type=POSITIVE, default=1.0, show_default=True, metavar="S", help="Seconds between readings."
)
@json_option
def command(interval: float, *, once: bool, as_json: bool) -> None:
    """Watch the agents, renewed every second; Ctrl-C ends. In a pipe, and with --json, the figures are printed once.

    `waiting` are deliveries in the agent's queue, `lag` is the age of the oldest of them, `in flight` are deliveries
    that a worker has. `failed` counts attempts since the state store was created, and rates are those of the last
    interval.
    """
    bus, console = connected_app(), open_console()
    before = read_live_figures(bus)
    if once or as_json or not console.is_terminal:
        time.sleep(interval)
        figures = read_live_figures(bus)
        if as_json:
            print_json(_as_json(figures, before))
        else:
            for part in render_figures(figures, before):
                console.print(part)
        return
    _watch(bus, console, before, interval)


def _watch(bus: BusRuntime, console: Console, before: LiveFigures, interval_s: float) -> None:
    """Renew the screen until Ctrl-C. While a server does not reply, the last figures stay with the reason."""
    figures = before
    with Live(Group(*render_figures(figures, before)), console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                problem = ""
                try:
                    before, figures = figures, read_live_figures(bus)
                except (RedisError, OperationalError, PetioleError, OSError) as error:
                    problem = f"no reply, these figures are old: {replace_unprintable(str(error))}"
                live.update(Group(*render_figures(figures, before), Text(problem, style="red")), refresh=True)
        except KeyboardInterrupt:
            return


def render_figures(figures: LiveFigures, before: LiveFigures) -> Iterator[RenderableType]:
    """Render two readings: the later one, and the rates between both."""
    at = datetime.fromtimestamp(figures.at, UTC).astimezone()
    yield Text(f"{at:%Y-%m-%d %H:%M:%S}  system {figures.system}", style="bold")
    rates = compute_rates(figures, before)
    cells = [_agent_cells(each, rates.get(each.agent)) for each in figures.agents]
    headings = ("agent", "state", *_NUMBERS)
    yield render_table(headings, cells, numbers=_NUMBERS, gap=2)
    yield Text(f"due later: {figures.delayed:,} deliveries and events")
    yield from _render_circuits(figures.circuits)
    if figures.accounts:
        cells = [_account_cells(each) for each in figures.accounts]
        yield render_table(("rate limit", "requests", "tokens", "state"), cells, numbers=("requests", "tokens"))
    if not figures.counts_events:
        yield Text(_NOT_COUNTED, style="dim")


def compute_rates(figures: LiveFigures, before: LiveFigures) -> dict[str, Rates]:
    """Compute the rates by agent between two readings; none if no time passed or nothing is counted."""
    seconds = figures.at - before.at
    if seconds <= 0 or not figures.counts_events:
        return {}
    earlier = {each.agent: each for each in before.agents}
    return {
        each.agent: Rates(
            max(0, each.handled - (earlier[each.agent].handled if each.agent in earlier else 0)) / seconds,
            max(0, each.failed - (earlier[each.agent].failed if each.agent in earlier else 0)) / seconds,
        )
        for each in figures.agents
    }


def _agent_cells(agent: AgentFigures, rates: Rates | None) -> tuple[str, ...]:
    is_publish = agent.agent == PUBLISH_QUEUE
    return (
        agent.agent,
        "-" if is_publish and agent.state == NO_WORKER else agent.state,
        "-" if is_publish else str(agent.workers),
        f"{agent.depth:,}",
        f"{agent.in_flight:,}",
        "-" if agent.lag_s is None else f"{agent.lag_s:,.1f} s",
        "-" if rates is None else f"{rates.handled_per_s:,.1f}",
        "-" if rates is None else f"{rates.failed_per_s:,.1f}",
        f"{agent.failed:,}",
        f"{agent.parked:,}",
    )


def _render_circuits(circuits: Sequence[Circuit]) -> Iterator[Text]:
    """Name the breakers that are not closed."""
    tripped = [each for each in circuits if each.state != "closed"]
    if circuits and not tripped:
        yield Text(f"breakers: {len(circuits)}, all closed")
    for each in tripped:
        described = shorten(replace_unprintable(" ".join(each.error.split())))
        reason = f": {described}" if described else ""
        yield Text(f"breaker {each.name} is {each.state.replace('_', ' ')}{reason}", style="red")


def _account_cells(usage: AccountUsage) -> tuple[str, ...]:
    return (
        usage.account,
        _of_quota(usage.used.requests, usage.max_requests),
        _of_quota(usage.used.tokens, usage.max_tokens),
        "paused by its provider" if usage.paused_until else "-",
    )


def _of_quota(used: int, most: int | None) -> str:
    return f"{used:,}" if most is None else f"{used:,} of {most:,}"


def _as_json(figures: LiveFigures, before: LiveFigures) -> dict[str, object]:
    rates = compute_rates(figures, before)
    return {
        "at": figures.at,
        "system": figures.system,
        "counts_events": figures.counts_events,
        "agents": [
            asdict(each) | (asdict(rates[each.agent]) if each.agent in rates else {}) for each in figures.agents
        ],
        "delayed": figures.delayed,
        "breakers": {each.name: each.state for each in figures.circuits},
        "rate_limits": [
            {
                "account": each.account,
                "requests": each.used.requests,
                "tokens": each.used.tokens,
                "max_requests": each.max_requests,
                "max_tokens": each.max_tokens,
                "is_paused": each.paused_until is not None,
            }
            for each in figures.accounts
        ],
    }
