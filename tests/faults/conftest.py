"""A system on a broker of its own, with two agents whose runs and answers are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Server
from tests.support.proxy import Proxy, proxied
from tests.support.traffic import AGENTS, Tally


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server of one's own."""
    server = Server(tmp_path / "broker")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Give a proxy to that server."""
    with proxied(server.url) as proxy:
        yield proxy


@pytest.fixture
def system(node, server: Server):
    """Give a node on that server, with the agents `one` and `two` to serve."""
    node.module("two_agents", AGENTS)
    node.environment.update(
        PETIOLE_BROKER_URL=server.url,
        PETIOLE_AGENTS="two_agents",
        PETIOLE_VISIBILITY_TIMEOUT_S="3",
        RUNS=str(node.home / "runs"),
    )
    return node


@pytest.fixture
def counts(system) -> Tally:
    """Give a tally whose runs the system's agents note."""
    return Tally(runs=system.home / "runs")
