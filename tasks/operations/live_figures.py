"""Live figures: what a system does at this moment, by agent, for an operator's screen.

Depth, in flight and lag are current values. Handled and failed are counts since the state store was created, so two
readings give a rate. They are 0 unless events are counted (PETIOLE_METRICS).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petiole.tasks.operations.metrics import QueueFigures, read_queues
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.cluster_lifecycle import Cluster
from petiole.tasks.stores.event_counts import EventCount
from petiole.tasks.stores.rate_limits import AccountUsage

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

NO_WORKER = "no worker"

_FAILURES = ("retried", "dead_lettered")


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """An agent at one moment.

    Attributes:
        agent: its name, which is its queue's, too; `publish` belongs to no agent.
        state: that of its lifecycle, what an operator set (paused, stopped), or `no worker`.
        workers: how many workers have it.
        depth: deliveries that wait.
        in_flight: deliveries that a worker has; 0 on other brokers than Redis.
        lag_s: the age of the oldest delivery that waits; None if none does, or on other brokers than Redis.
        parked: deliveries that wait for a worker of another version.
        handled: deliveries handled, in total.
        failed: attempts that failed, in total.
    """

    agent: str
    state: str
    workers: int
    depth: int
    in_flight: int
    lag_s: float | None
    parked: int
    handled: int
    failed: int


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """A system at one moment, in s since 1970 by the server's clock; the agents with most deliveries come first.

    `delayed` counts deliveries and events that are due later: retries, deferrals, delayed events.
    """

    at: float
    system: str
    agents: tuple[AgentFigures, ...]
    circuits: tuple[Circuit, ...]
    accounts: tuple[AccountUsage, ...]
    delayed: int
    counts_events: bool


def read_live_figures(bus: BusRuntime) -> LiveFigures:
    """Read all figures. Raises redis-py's errors and kombu's if a server does not reply."""
    now, stores = bus.now(), bus.stores
    cluster, counts = stores.cluster_membership.read(), stores.event_counts.all()
    queues, parked = read_queues(bus), Counter[str]()
    for each in stores.parked.read():
        parked[each.need.queue] += each.count
    handled, failed = _count_by_agent(counts, ("handled",)), _count_by_agent(counts, _FAILURES)
    names = {*queues.depth, *cluster.agents, *cluster.overrides, *parked}
    agents = (_agent_figures(name, cluster, queues, parked, (handled, failed)) for name in names)
    return LiveFigures(
        at=now.timestamp(),
        system="closed" if cluster.is_closed else cluster.state,
        agents=tuple(sorted(agents, key=lambda each: (-each.depth - each.in_flight, each.agent))),
        circuits=tuple(stores.circuits.all()),
        accounts=tuple(stores.rate_limits.accounts(now)),
        delayed=stores.delayed_messages.count(),
        counts_events=bool(counts),
    )


def _agent_figures(
    name: str,
    cluster: Cluster,
    queues: QueueFigures,
    parked: Mapping[str, int],
    counts: tuple[Mapping[str, int], Mapping[str, int]],
) -> AgentFigures:
    handled, failed = counts
    lifecycle = cluster.agents.get(name)
    return AgentFigures(
        agent=name,
        state=cluster.overrides.get(name) or (lifecycle.state if lifecycle else NO_WORKER),
        workers=sum(name in worker.agents for worker in cluster.workers.values()),
        depth=queues.depth.get(name, 0),
        in_flight=queues.in_flight.get(name, 0),
        lag_s=queues.lag_s.get(name),
        parked=parked.get(name, 0),
        handled=handled.get(name, 0),
        failed=failed.get(name, 0),
    )


def _count_by_agent(counts: Mapping[EventCount, float], outcomes: tuple[str, ...]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for count, amount in counts.items():
        if count.family == "delivery" and count.detail in outcomes:
            totals[count.subscription.rpartition(".")[0]] += int(amount)
    return totals
