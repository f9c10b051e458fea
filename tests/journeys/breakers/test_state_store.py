"""Guarded calls while the state store is away."""

from __future__ import annotations

import logging

from petiole.tasks import guarded
from tests.journeys.breakers.dependency import ONCE, Dependency, attempt
from tests.support.apps import a_bus, as_default, ask_the_state_store_each_time, state_store_away
from tests.support.inside import Inside


def test_without_the_state_store_calls_go_through_and_that_is_an_alarm(monkeypatch, caplog):
    as_default(a_bus("memory://", state_url="redis://127.0.0.1:9"), monkeypatch)
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)

    ask_the_state_store_each_time(monkeypatch)
    with caplog.at_level(logging.ERROR):
        ended = attempt(call, 8)

    assert [type(each) for each in ended] == [ConnectionError] * 8
    assert dependency.calls == 8
    assert [each.message for each in caplog.records] == ["breaker.store_failed"]


def test_without_any_store_configured_a_guarded_function_is_a_function(monkeypatch):
    as_default(a_bus("memory://", state_url=""), monkeypatch)

    assert guarded("shop.stock")(lambda: "done")() == "done"


def test_calls_that_went_unguarded_are_counted_when_the_store_is_back(harness, bus, monkeypatch):
    dependency = Dependency()
    dependency.error = None
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call)
    ask_the_state_store_each_time(monkeypatch)
    with state_store_away(harness):
        attempt(call, 3)

    attempt(call)

    assert Inside(bus).counts()["calls_without_breaker"] == 3
