"""The store of a bus without servers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from fakeredis._core._database import Database

from petiole.tasks.consuming.in_process import InProcess


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
