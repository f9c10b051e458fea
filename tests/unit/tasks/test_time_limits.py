from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from petiole.tasks.handling.time_limits import TimeLimitReached, call_within

SHORT_S, LONG_S = 0.05, 30.0


def in_main_thread(function: Callable[[], object]) -> object:
    return function()


def in_a_thread(function: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result(10)


in_every_thread = pytest.mark.parametrize("run", [in_main_thread, in_a_thread])


def compute_forever() -> None:
    while True:
        pass


@in_every_thread
def test_a_computation_beyond_the_limit_is_interrupted(run):
    with pytest.raises(TimeLimitReached):
        run(lambda: call_within(SHORT_S, compute_forever))


@in_every_thread
def test_a_function_within_the_limit_returns_its_value(run):
    assert run(lambda: call_within(LONG_S, lambda: 5)) == 5


@in_every_thread
def test_a_function_that_suppresses_the_interrupt_still_exceeds_the_limit(run):
    with pytest.raises(TimeLimitReached):
        run(lambda: call_within(SHORT_S, lambda: _suppress_all(lambda: threading.Event().wait(2 * SHORT_S))))


@in_every_thread
def test_a_function_that_fails_within_the_limit_raises_its_own_error(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda: call_within(LONG_S, lambda: 1 // 0))


@in_every_thread
def test_no_interrupt_is_raised_after_a_call_has_returned(run):
    def call_many_to_the_limit() -> int:
        interrupted = 0
        for number in range(300):
            wait_s = 0.0005 + number / 1e6
            try:
                call_within(0.0007, lambda: _compute(wait_s))  # noqa: B023 - called at once
            except TimeLimitReached:
                interrupted += 1
        return interrupted

    # A late interrupt would be raised in the loop above or in the next call.
    assert 0 < run(call_many_to_the_limit) <= 300
    run(lambda: _compute(SHORT_S))


def test_the_main_thread_is_interrupted_while_it_waits():
    began = time.monotonic()

    with pytest.raises(TimeLimitReached):
        call_within(SHORT_S, lambda: threading.Event().wait(LONG_S))

    assert time.monotonic() - began < 5


def test_a_signal_after_the_call_raises_nothing():
    call_within(LONG_S, lambda: None)

    signal.raise_signal(signal.SIGURG)


def _compute(seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        pass


def _suppress_all(function: Callable[[], object]) -> None:
    with suppress(BaseException):
        function()
