"""While a dependency is down one caller probes it, and its success closes the circuit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from petiole.events.errors import ServiceUnavailable, UsageError
from petiole.tasks import guarded
from tests.journeys.breakers.dependency import ONCE, RESET_S, Dependency, attempt, circuit, http_error, told


def test_of_ten_callers_at_once_one_probes_and_its_success_closes(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    refused = threading.Semaphore(0)

    @guarded("shop.stock", **ONCE)
    def slow_call() -> str:
        for _ in range(9):
            assert refused.acquire(timeout=10)
        return "done"

    def try_once(_: int) -> object:
        (ended,) = attempt(slow_call)
        if isinstance(ended, ServiceUnavailable):
            refused.release()
        return ended

    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(try_once, range(10)))

    assert ended.count("done") == 1
    assert sum(isinstance(each, ServiceUnavailable) for each in ended) == 9
    assert circuit(bus).state == "closed"


def test_while_it_is_down_there_is_one_probe_for_each_reset_time_and_one_warning(bus, harness):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)

    for _ in range(3):
        bus.store_clock.skip(RESET_S)
        attempt(call, 10)
    assert dependency.calls == 5 + 3
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    attempt(call, 10)

    assert dependency.calls == 5 + 3 + 10
    assert len(told(harness, "error.circuit_opened")) == 1
    opened = [each.content.reopened for each in told(harness, "system.circuit.opened")]  # type: ignore[attr-defined]
    assert opened == [False, True, True, True]
    assert len(told(harness, "system.circuit.half_opened")) == 4
    assert len(told(harness, "system.circuit.closed")) == 1


def test_a_late_success_of_an_earlier_epoch_does_not_close_it_and_a_late_failure_does_not_open_it(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    late = [guarded("shop.stock", **ONCE) for _ in range(6)]
    for each in late:
        each.__enter__()
    attempt(call, 5)

    late[0].__exit__(None, None, None)

    assert circuit(bus).state == "open"
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    attempt(call)
    for each in late[1:]:
        each.__exit__(ConnectionError, ConnectionError("late"), None)
    assert (circuit(bus).state, circuit(bus).failures) == ("closed", 0)


def test_when_a_worker_dies_during_its_probe_another_one_probes_after_the_lease(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE, timeout=60)(dependency)
    attempt(call, 5)
    dependency.error = None
    bus.store_clock.skip(RESET_S)
    guarded("shop.stock", **ONCE, timeout=60).__enter__()  # and nobody leaves it

    bus.store_clock.skip(50)
    assert isinstance(attempt(call)[0], ServiceUnavailable)
    bus.store_clock.skip(10)

    assert attempt(call) == ["done"]
    assert circuit(bus).state == "closed"


def test_a_probe_that_never_reached_the_dependency_leaves_the_probing_to_the_next(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    dependency.error = UsageError("a bad call")
    attempt(call)
    assert circuit(bus).state == "half_open"
    dependency.error = None

    assert attempt(call) == ["done"]


def test_a_probe_that_is_refused_as_the_callers_mistake_closes_it(bus):
    dependency = Dependency()
    call = guarded("shop.stock", **ONCE)(dependency)
    attempt(call, 5)
    bus.store_clock.skip(RESET_S)
    dependency.error = http_error(404)

    attempt(call)

    assert circuit(bus).state == "closed"
