"""Sentinel names another server under load: broker and state store are one pair of servers, behind three Sentinels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.apps import a_bus
from tests.support.sentinels import Pair, paired_servers
from tests.support.traffic import AGENTS, IS_FULL, Publisher, Tally

FAILOVERS = 3 if IS_FULL else 1
HANDLED_WITHIN_S = 30.0


@contextmanager
def killed(pair: Pair, port: int) -> Iterator[None]:
    pair.kill(port)
    yield
    pair.start_server(port)


@contextmanager
def demoted(pair: Pair, port: int) -> Iterator[None]:
    pair.demote()
    yield


@contextmanager
def frozen(pair: Pair, port: int) -> Iterator[None]:
    # When it goes on, it takes itself for the primary until a Sentinel tells it otherwise.
    with pair.frozen(port):
        yield


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with paired_servers(tmp_path / "pair") as pair:
        yield pair


@pytest.fixture
def system(node, pair):
    node.module("two_agents", AGENTS)
    node.environment.update(
        PETIOLE_BROKER_URL=pair.url,
        PETIOLE_AGENTS="two_agents",
        PETIOLE_VISIBILITY_TIMEOUT_S="3",
        RUNS=str(node.home / "runs"),
    )
    return node


@pytest.mark.parametrize("lost", [killed, *(pytest.param(lost, marks=pytest.mark.long) for lost in (demoted, frozen))])
def test_a_failover_of_broker_and_state_store_loses_nothing_that_the_replica_had(
    lost, system, pair, eventually, capsys
):
    runs = system.home / "runs"
    counts = Tally(runs=runs)
    workers = [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]
    bus = a_bus(pair.url)
    silences: list[float] = []

    with Publisher(pair.url, counts), Publisher(pair.url, counts, by="delay"):
        for _ in range(FAILOVERS):
            enough = len(counts.acknowledged) + 50
            eventually(lambda: len(counts.acknowledged) > enough, 40, lambda: counts.refused)  # noqa: B023
            eventually(pair.is_followed, 30, pair.log)
            down = pair.primary()
            # Without it, a failover may lose the last moments.
            pair.hold_writes()
            lost_at = time.monotonic()
            with lost(pair, down):
                eventually(lambda: pair.primary() != down, 30, pair.log)  # noqa: B023
            # Alone, the new primary takes no writes: `min-replicas-to-write`.
            before = len(runs.read_text())
            eventually(lambda: len(runs.read_text()) > before, 60, system.logs)  # noqa: B023
            silences.append(round(time.monotonic() - lost_at, 1))

    eventually(lambda: counts.is_complete(bus), 60, lambda: (counts.line(bus), system.logs()[-3000:]))
    with capsys.disabled():
        print(f"\n{FAILOVERS} failovers ({lost.__name__}): {counts.line(bus)}; silent for {silences} s")
    assert [worker.poll() for worker in workers] == [None, None]
    assert counts.doubled(bus) == 0
    assert set(counts.refused) <= {"BrokerUnavailable", "PublishOutcomeUnknown"}
    assert max(silences) < HANDLED_WITHIN_S
