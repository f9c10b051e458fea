"""Graph: who hears whom, from the last events and the current subscriptions, drawn in columns.

An edge leads from the agent that published an event to each agent whose pattern matches it. Agents stand in the column
of their distance from the users. Above MAX_NODES only the busiest are drawn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from petiole.events.topics import list_matching_patterns
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.stores.history import RecordedEvent

USERS: Final = "users"
MAX_NODES: Final = 40
NODE_WIDTH: Final = 132
NODE_HEIGHT: Final = 40
_COLUMN, _ROW = 196, 54
_ARROW = 5


@dataclass(frozen=True, slots=True)
class GraphNode:
    """An agent, its place, and the word that its style is chosen by."""

    name: str
    state: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """A line from a publisher to a subscriber, as an SVG path, and how many of the last events took it."""

    publisher: str
    subscriber: str
    events: int
    path: str

    @property
    def weight(self) -> int:
        """How thick the line is: 1 to 4, a step for a tenfold of events."""
        return min(4, len(str(self.events)))


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn, its size, and how many agents there was no room for."""

    nodes: Sequence[GraphNode]
    edges: Sequence[GraphEdge]
    width: int
    height: int
    omitted: int


def build_graph(table: RoutingTable, recorded: Sequence[RecordedEvent], states: Mapping[str, str]) -> Graph:
    """Build the graph of the last events."""
    edges = _count_edges(table, recorded)
    activity: Counter[str] = Counter()
    for (publisher, subscriber), count in edges.items():
        activity[publisher] += count
        activity[subscriber] += count
    drawn = {name for name, _ in activity.most_common(MAX_NODES)}
    columns = _place(drawn, edges)
    nodes = {
        name: GraphNode(name, states.get(name, "users" if name == USERS else ""), 4 + x * _COLUMN, 4 + y * _ROW)
        for x, names in enumerate(columns)
        for y, name in enumerate(names)
    }
    lines = [
        GraphEdge(publisher, subscriber, count, _draw(nodes[publisher], nodes[subscriber]))
        for (publisher, subscriber), count in sorted(edges.items())
        if publisher in nodes and subscriber in nodes
    ]
    height = max((len(names) for names in columns), default=0) * _ROW + 8
    width = max(1, len(columns)) * _COLUMN + 8
    return Graph(list(nodes.values()), lines, width, height, len(activity) - len(drawn))


def _count_edges(table: RoutingTable, recorded: Iterable[RecordedEvent]) -> Counter[tuple[str, str]]:
    by_pattern: defaultdict[str, set[str]] = defaultdict(set)
    for subscription in table.all():
        for pattern in subscription.patterns:
            by_pattern[pattern].add(subscription.agent)
    published = Counter((_publisher(each), each.topic) for each in recorded)
    edges: Counter[tuple[str, str]] = Counter()
    for (publisher, topic), count in published.items():
        hearers = {agent for pattern in list_matching_patterns(topic) for agent in by_pattern.get(pattern, ())}
        for agent in hearers:
            edges[publisher, agent] += count
    return edges


def _publisher(recorded: RecordedEvent) -> str:
    path = recorded.attributes.get("path")
    return str(path[-1]) if isinstance(path, list) and path else USERS


def _place(drawn: set[str], edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the columns: each agent stands as far to the right as events need steps from the users to it."""
    followers: defaultdict[str, set[str]] = defaultdict(set)
    for publisher, subscriber in edges:
        followers[publisher].add(subscriber)
    placed, columns, front = set[str](), list[list[str]](), {USERS} & drawn or set(sorted(drawn)[:1])
    while front:
        columns.append(sorted(front))
        placed |= front
        front = {name for publisher in front for name in followers[publisher]} & drawn - placed
        if not front and drawn - placed:
            front = set(sorted(drawn - placed)[:1])
    return columns


def _draw(start: GraphNode, end: GraphNode) -> str:
    y1, y2 = start.y + NODE_HEIGHT // 2, end.y + NODE_HEIGHT // 2
    if start.x < end.x:
        x1, x2 = start.x + NODE_WIDTH, end.x - _ARROW
        middle = (x1 + x2) // 2
        return f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
    # Back, or to itself: around the right side.
    x1, x2 = start.x + NODE_WIDTH, end.x + NODE_WIDTH + _ARROW
    return f"M{x1},{y1} C{x1 + 44},{y1 - 12} {x2 + 44},{y2 + 12} {x2},{y2}"
