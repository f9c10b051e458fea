from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context

import pytest

from petiole.tasks.handling import event_loop
from petiole.tasks.handling.time_limits import TimeLimitReached, call_within


def in_main_thread(function: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    return function()


def in_a_thread(function: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result(5)


async def this_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_threads_share_one_loop():
    met = asyncio.Event()

    async def meet(number: int) -> asyncio.AbstractEventLoop:
        met.set() if number else await met.wait()
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(event_loop.run_coroutine, meet(0))
        second = threads.submit(event_loop.run_coroutine, meet(1))

        assert first.result(5) is second.result(5)


def test_the_main_thread_keeps_its_loop():
    assert event_loop.run_coroutine(this_loop()) is event_loop.run_coroutine(this_loop())


def test_a_closed_loop_is_followed_by_a_new_one():
    first = event_loop.run_coroutine(this_loop())

    event_loop.close_loops()

    assert first.is_closed()
    assert event_loop.run_coroutine(this_loop()) is not first
    event_loop.close_loops()
    event_loop.close_loops()


def test_closing_ends_the_background_loop_and_its_thread():
    with ThreadPoolExecutor(1) as threads:
        loop = threads.submit(event_loop.run_coroutine, this_loop()).result(5)

    event_loop.close_loops()

    assert loop.is_closed()
    assert "petiole-loop" not in [thread.name for thread in threading.enumerate()]


def test_a_coroutine_that_ignores_its_cancellation_never_runs_again(monkeypatch):
    monkeypatch.setattr(event_loop, "CLEANUP_TIMEOUT_S", 0.05)
    before = event_loop.run_coroutine(this_loop())
    cancellations = []

    async def ignore_cancellation() -> None:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancellations.append("ignored")

    with pytest.raises(TimeLimitReached):
        call_within(0.05, lambda: event_loop.run_coroutine(ignore_cancellation()))

    assert (cancellations, before.is_closed()) == (["ignored"], True)
    assert event_loop.run_coroutine(this_loop()) is not before
    event_loop.close_loops()


@pytest.mark.parametrize("run", [in_main_thread, in_a_thread])
def test_closing_does_not_wait_forever_for_a_task_that_ignores_its_cancellation(monkeypatch, run):
    monkeypatch.setattr(event_loop, "CLEANUP_TIMEOUT_S", 0.05)
    tasks = []

    async def ignore_cancellation() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(30)

    async def start() -> asyncio.AbstractEventLoop:
        tasks.append(asyncio.create_task(ignore_cancellation(), context=Context()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    loop = run(lambda: event_loop.run_coroutine(start()))

    event_loop.close_loops()

    assert loop.is_closed()
    assert not tasks[0].done()
