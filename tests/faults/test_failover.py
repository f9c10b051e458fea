"""Sentinel names another server under load: a pair of servers is the state store, or the broker too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.polling import wait_until
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


@pytest.fixture
def counts(system):
    return Tally(runs=system.home / "runs")


@pytest.fixture
def workers(system):
    return [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]


def fail_over(lost, system, pair, counts, *, loses: bool = False) -> tuple[float, float]:
    """Lose the primary while events are published; return when that was, and for how long nothing was handled."""
    runs = system.home / "runs"
    enough = len(counts.acknowledged) + 50
    wait_until(lambda: len(counts.acknowledged) > enough, 40, lambda: counts.refused)
    wait_until(pair.is_followed, 30, pair.log)
    down = pair.primary()
    if not loses:
        pair.hold_writes()
    lost_at = time.monotonic()
    with lost(pair, down):
        wait_until(lambda: pair.primary() != down, 30, pair.log)
    # Alone, the new primary takes no writes: `min-replicas-to-write`.
    before = len(runs.read_text())
    wait_until(lambda: len(runs.read_text()) > before, 60, system.logs)
    return lost_at, round(time.monotonic() - lost_at, 1)


@pytest.mark.parametrize("lost", [killed, *(pytest.param(lost, marks=pytest.mark.long) for lost in (demoted, frozen))])
def test_a_failover_of_broker_and_state_store_loses_nothing_that_the_replica_had(  # noqa: PLR0917 - fixtures
    lost, system, pair, counts, workers, eventually, capsys
):
    bus = a_bus(pair.url)

    with Publisher(pair.url, counts), Publisher(pair.url, counts, by="delay"):
        silences = [fail_over(lost, system, pair, counts)[1] for _ in range(FAILOVERS)]

    eventually(lambda: counts.is_complete(bus), 60, lambda: (counts.line(bus), system.logs()[-3000:]))
    with capsys.disabled():
        print(f"\n{FAILOVERS} failovers ({lost.__name__}): {counts.line(bus)}; silent for {silences} s")
    assert [worker.poll() for worker in workers] == [None, None]
    assert counts.doubled(bus) == 0
    assert set(counts.refused) <= {"BrokerUnavailable", "PublishOutcomeUnknown"}
    assert max(silences) < HANDLED_WITHIN_S


@pytest.mark.long
def test_a_failover_loses_no_more_than_the_last_two_seconds(  # noqa: PLR0917 - fixtures
    system, pair, counts, workers, eventually, capsys
):
    bus = a_bus(pair.url)

    with Publisher(pair.url, counts), Publisher(pair.url, counts):
        lost_at, _ = fail_over(killed, system, pair, counts, loses=True)

    def lost() -> set[str]:
        """Return the acknowledged events that the new primary does not have; the others are handled again."""
        return set(counts.acknowledged) - {event["event_id"] for event in Inside(bus).history()}

    eventually(lambda: {event for _, event in counts.missing(bus)} <= lost(), 60, lambda: counts.line(bus))
    ages_s = [round(lost_at - counts.acknowledged_at[event], 3) for event in lost()]
    with capsys.disabled():
        print(f"\na failover under load: {counts.line(bus)}; acknowledged up to {max(ages_s, default=0)} s before")
    assert max(ages_s, default=0) < 2
    assert counts.doubled(bus) == 0


def test_a_failover_of_the_state_store_alone_loses_nothing_that_its_replica_had(  # noqa: PLR0917 - fixtures
    system, pair, counts, clean_broker_url, request, eventually, capsys
):
    # Only an atomic publish, to one server, keeps an order.
    system.module("two_agents", AGENTS.replace(", ordered=True", ""))
    system.environment.update(PETIOLE_BROKER_URL=clean_broker_url, PETIOLE_STATE_URL=pair.url)
    workers = request.getfixturevalue("workers")
    bus = a_bus(clean_broker_url, state_url=pair.url)

    with Publisher(clean_broker_url, counts, state_url=pair.url):
        silences = [fail_over(killed, system, pair, counts)[1] for _ in range(FAILOVERS)]

    eventually(lambda: counts.is_complete(bus), 60, lambda: (counts.line(bus), system.logs()[-3000:]))
    with capsys.disabled():
        print(f"\n{FAILOVERS} failovers of the state store: {counts.line(bus)}; silent for {silences} s")
    assert [worker.poll() for worker in workers] == [None, None]
    assert counts.doubled(bus) == 0
    assert set(counts.refused) <= {"StateStoreUnavailable", "PublishOutcomeUnknown"}
