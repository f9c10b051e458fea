"""A bus without servers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from fakeredis._core._database import Database

from petiole.tasks import EventBus
from petiole.tasks.consuming.in_process import InProcess
from petiole.tasks.stores.delayed_messages import DelayedMessages


def test_threads_that_use_the_store_first_at_the_same_time_share_it(monkeypatch):
    def create_slowly(*arguments: Any) -> Any:
        time.sleep(0.05)  # so that the other thread comes in between
        return Database(*arguments)

    monkeypatch.setattr("fakeredis._core._server.Database", create_slowly)
    state, barrier = InProcess().state, Barrier(2)

    def write(name: str) -> None:
        barrier.wait(10)
        state.set(name, "written")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(state.mget, [["one", "two"]] * 2)) == [["written", "written"]] * 2


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_bus_that_sends_a_delayed_message_while_it_is_asked_is_not_idle(monkeypatch, is_settled):
    with EventBus() as bus:
        in_process: Any = bus._in_process

        def count(_: object) -> int:
            in_process.traffic.count(1)
            if is_settled:
                in_process.traffic.count(-1)
            return 0

        assert bus.is_idle()
        monkeypatch.setattr(DelayedMessages, "count", count)

        assert not bus.is_idle()
