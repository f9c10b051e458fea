"""Circuit breakers that an operator opens and closes by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from click.testing import Result

from petiole.events.errors import ServiceUnavailable
from petiole.tasks import guarded
from tests.journeys.breakers.dependency import ONCE, RESET_S, Dependency, attempt, circuit, told
from tests.support.apps import command_line


@pytest.fixture
def type_command(bus, monkeypatch) -> Callable[..., Result]:
    return partial(command_line(bus, monkeypatch), "breakers")


def test_an_operator_sees_opens_and_closes_a_breaker(bus, harness, type_command):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 4)
    dependency.error = None

    assert "shop.stock is open" in type_command("open", "shop.stock").output
    bus.store_clock.skip(10 * RESET_S)
    assert isinstance(attempt(call)[0], ServiceUnavailable)
    assert "after it is closed manually" in type_command().output.replace("\n", " ")
    assert "shop.stock is open already" in type_command("open", "shop.stock", "--for", "20").output
    (shown,) = json.loads(type_command("--json").output)
    assert (shown["name"], shown["state"], shown["failures"]) == ("shop.stock", "open", 0)
    bus.store_clock.skip(20)
    assert attempt(call) == ["done"]
    assert "shop.stock is closed already" in type_command("close", "shop.stock").output
    assert [each.event_type for each in told(harness)] == [
        "system.circuit.opened",
        "error.circuit_opened",
        "system.circuit.half_opened",
        "system.circuit.closed",
    ]


def test_closing_by_hand_ends_the_wait_and_a_probe_under_way_changes_nothing_more(bus, type_command):
    dependency = Dependency()
    attempt(guarded("shop.stock", **ONCE)(dependency), 5)
    bus.store_clock.skip(RESET_S)
    probe = guarded("shop.stock", **ONCE)
    probe.__enter__()

    assert type_command("close", "shop.stock").exit_code == 0
    probe.__exit__(ConnectionError, ConnectionError("late"), None)

    assert (circuit(bus).state, circuit(bus).failures) == ("closed", 0)


def test_a_breaker_that_nobody_knows_is_refused_by_the_nearest_name(bus, type_command):
    attempt(guarded("shop.stock", **ONCE)(Dependency()))

    refused = type_command("close", "shop.stok")

    assert refused.exit_code == 2
    assert "did you mean 'shop.stock'?" in refused.output
