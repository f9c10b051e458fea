"""Board: the state of every agent, of the circuit breakers, and their last minutes, for the page Live.

Figures are read when somebody looks, at most every MIN_INTERVAL_S however many do, and the last SAMPLES are kept in
memory for the curves: about two minutes. Rates come from the counts of the history, and by agent from those of the
deliveries, which need PETIOLE_METRICS.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.operations.live_figures import NO_WORKER, AgentFigures, LiveFigures, read_live_figures
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.rate_limits import AccountUsage
from petiole.workers.console.graph import Graph, build_graph

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

MIN_INTERVAL_S: Final = 1.8
SAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent: its figures now, how it went in the last minutes, and the budgets that its calls use.

    `rate` (handled deliveries per second) and `errors` (failed attempts) are None unless deliveries are counted.
    """

    figures: AgentFigures
    rate: float | None
    errors: int | None
    depths: Sequence[float]
    budgets: Sequence[AccountUsage]

    @property
    def name(self) -> str:
        return self.figures.agent

    @property
    def state(self) -> str:
        """The state of the agent; none for the queue of publishers, which belongs to no agent."""
        is_publish = self.name == PUBLISH_QUEUE and self.figures.state == NO_WORKER
        return "-" if is_publish else self.figures.state

    @property
    def needs_attention(self) -> bool:
        """Whether a person should look at it."""
        agent = self.figures
        return self.state in {"paused", "stopped"} or bool(agent.parked) or (agent.depth > 0 and not agent.workers)


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
    """The figures of one time, of which the rates and curves are made. Counts are by agent."""

    at: float
    recorded: int
    depth: Mapping[str, int]
    handled: Mapping[str, int]
    failed: Mapping[str, int]


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
            if self._view is None or time.monotonic() - self._samples[-1].at >= MIN_INTERVAL_S:
                figures = read_live_figures(self._bus)
                self._samples.append(_sample(figures, self._bus.stores.history.count_recorded()))
                self._view = self._build_view(figures)
            return self._view

    def _build_view(self, figures: LiveFigures) -> BoardView:
        stores, agents = self._bus.stores, self._agent_rows(figures)
        states = {row.name: "attention" if row.needs_attention else row.state for row in agents}
        return BoardView(
            agents,
            sorted(figures.circuits, key=lambda each: (each.state == "closed", each.name)),
            build_graph(self._bus.routing(), stores.history.light.read_last(500), states),
            self._rates(),
            sum(each.depth for each in figures.agents),
            sum(each.in_flight for each in figures.agents),
            stores.dead_letters.count(),
            figures.counts_events,
        )

    def _agent_rows(self, figures: LiveFigures) -> list[AgentRow]:
        budgets: defaultdict[str, list[AccountUsage]] = defaultdict(list)
        for account in figures.accounts:
            for name in account.agents:
                budgets[name].append(account)
        first = self._samples[0].failed
        rows = [
            AgentRow(
                each,
                self._rate_of(each.agent) if figures.counts_events else None,
                each.failed - first.get(each.agent, 0) if figures.counts_events else None,
                [float(sample.depth.get(each.agent, 0)) for sample in self._samples],
                budgets.get(each.agent, ()),
            )
            for each in figures.agents
        ]
        return sorted(rows, key=lambda row: (not row.needs_attention, -row.figures.depth, row.name))

    def _rates(self) -> list[float]:
        return [
            max(0.0, (after.recorded - before.recorded) / (after.at - before.at))
            for before, after in pairwise(self._samples)
        ]

    def _rate_of(self, agent: str) -> float | None:
        """Return the handled deliveries per second since the oldest of the last ten samples."""
        last, first = self._samples[-1], self._samples[max(0, len(self._samples) - 10)]
        if last.at <= first.at:
            return None
        return max(0.0, last.handled.get(agent, 0) - first.handled.get(agent, 0)) / (last.at - first.at)


def _sample(figures: LiveFigures, recorded: int) -> _Sample:
    return _Sample(
        time.monotonic(),
        recorded,
        {each.agent: each.depth for each in figures.agents},
        {each.agent: each.handled for each in figures.agents},
        {each.agent: each.failed for each in figures.agents},
    )
