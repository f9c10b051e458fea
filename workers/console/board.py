"""Board: the state of every agent, of the circuit breakers, and their last minutes, for the page Live.

Figures are read when somebody looks, at most every MIN_INTERVAL_S however many do, and the last SAMPLES are kept in
memory for the curves: about two minutes. Rates come from the counts of the history, and by agent from those of the
deliveries, which need PETIOLE_METRICS.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from petiole.tasks.operations.metrics import QueueFigures, read_queues
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.rate_limits import AccountUsage
from petiole.workers.console.graph import Graph, build_graph

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.event_counts import EventCount

MIN_INTERVAL_S: Final = 1.8
SAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent: what waits for it, what it works on, and how it went in the last minutes."""

    name: str
    state: str
    workers: int
    subscriptions: int
    depth: int
    in_flight: int
    lag_s: float
    parked: int
    rate: float | None
    errors: int | None
    depths: Sequence[float]
    budgets: Sequence[AccountUsage]

    @property
    def needs_attention(self) -> bool:
        """Whether a person should look at it."""
        return self.state in {"paused", "stopped"} or bool(self.parked) or (self.depth > 0 and not self.workers)


@dataclass(frozen=True, slots=True)
class BoardView:
    """What the page shows at one time. `rates` are events per second, oldest first."""

    agents: Sequence[AgentRow]
    circuits: Sequence[Circuit]
    graph: Graph
    rates: Sequence[float]
    waiting: int
    in_flight: int
    dead_letters: int
    counts_deliveries: bool

    @property
    def attention(self) -> int:
        """How many agents a person should look at."""
        return sum(row.needs_attention for row in self.agents)

    def row(self, name: str) -> AgentRow | None:
        """Return the figures of an agent; None for the users."""
        return next((row for row in self.agents if row.name == name), None)


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    recorded: int
    queues: QueueFigures
    handled: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, float] = field(default_factory=dict)


class Board:
    """Reads and remembers the figures of a bus."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self._view: BoardView | None = None

    def read(self) -> BoardView:
        """Return the current view, which may be MIN_INTERVAL_S old. Raises redis-py's errors and kombu's."""
        with self._lock:
            is_old = not self._samples or time.monotonic() - self._samples[-1].at >= MIN_INTERVAL_S
            if self._view is None or is_old:
                self._samples.append(self._take_sample())
                self._view = self._build_view()
            return self._view

    def _take_sample(self) -> _Sample:
        handled, failed = _by_agent(self._bus.stores.event_counts.all())
        recorded = self._bus.stores.history.count_recorded()
        return _Sample(time.monotonic(), recorded, read_queues(self._bus), handled, failed)

    def _build_view(self) -> BoardView:
        bus, queues = self._bus, self._samples[-1].queues
        table = bus.routing()
        agents = self._agent_rows(Counter(each.queue for each in table.all()))
        states = {row.name: "attention" if row.needs_attention else row.state for row in agents}
        return BoardView(
            agents,
            sorted(bus.stores.circuits.all(), key=lambda each: (each.state == "closed", each.name)),
            build_graph(table, bus.stores.history.read_last(500), states),
            [rate for rate in self._rates() if rate is not None],
            sum(queues.depth.values()),
            sum(queues.in_flight.values()),
            bus.stores.dead_letters.count(),
            bool(self._samples[-1].handled),
        )

    def _agent_rows(self, subscriptions: Mapping[str, int]) -> list[AgentRow]:
        cluster, parked = self._bus.stores.cluster_membership.read(), Counter[str]()
        for each in self._bus.stores.parked.read():
            parked[each.need.queue] += each.count
        workers = Counter(name for worker in cluster.workers.values() for name in worker.agents)
        budgets = self._budgets_by_agent()
        states = {name: each.state for name, each in cluster.agents.items()} | dict(cluster.overrides)
        sample = self._samples[-1]
        rows = [
            AgentRow(
                name,
                states.get(name, "unserved" if subscriptions.get(name) else "-"),
                workers[name],
                subscriptions.get(name, 0),
                sample.queues.depth.get(name, 0),
                sample.queues.in_flight.get(name, 0),
                sample.queues.lag_s.get(name, 0.0),
                parked[name],
                self._rate_of(name),
                int(sample.failed.get(name, 0) - self._samples[0].failed.get(name, 0)) if sample.handled else None,
                [float(each.queues.depth.get(name, 0)) for each in self._samples],
                budgets.get(name, ()),
            )
            for name in {*subscriptions, *states, *sample.queues.depth}
        ]
        return sorted(rows, key=lambda row: (not row.needs_attention, -row.depth, row.name))

    def _budgets_by_agent(self) -> Mapping[str, Sequence[AccountUsage]]:
        budgets: defaultdict[str, list[AccountUsage]] = defaultdict(list)
        for account in self._bus.stores.rate_limits.accounts(self._bus.now()):
            for name in account.agents:
                budgets[name].append(account)
        return budgets

    def _rates(self) -> list[float | None]:
        samples = list(self._samples)
        return [
            max(0.0, (after.recorded - before.recorded) / (after.at - before.at)) for before, after in pairwise(samples)
        ]

    def _rate_of(self, agent: str) -> float | None:
        """Return the handled deliveries per second since the oldest of the last ten samples."""
        last, first = self._samples[-1], self._samples[max(0, len(self._samples) - 10)]
        if not last.handled or last.at <= first.at:
            return None
        return max(0.0, last.handled.get(agent, 0) - first.handled.get(agent, 0)) / (last.at - first.at)


def _by_agent(counts: Mapping[EventCount, float]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    handled: defaultdict[str, float] = defaultdict(float)
    failed: defaultdict[str, float] = defaultdict(float)
    for count, amount in counts.items():
        if count.family == "delivery":
            agent = count.subscription.rpartition(".")[0]
            (handled if count.detail == "handled" else failed)[agent] += amount
    return handled, failed
