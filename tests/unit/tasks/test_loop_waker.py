"""Waking the worker's event loop from other threads."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import Any

import pytest
from kombu.asynchronous import Hub

from petiole.tasks.transport.loop_waker import LoopWaker


def wakes(hub: Any) -> int:
    """Count the wakes that the loop would find now."""
    return len(hub.poller.poll(0.1))


def test_a_wake_while_the_loop_reads_an_earlier_one_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the pool threads would look for its next delivery once a second from then on."""
    hub: Any = Hub()
    with closing(hub), closing(LoopWaker(hub)) as waker:
        others: list[threading.Thread] = []

        def read_late(descriptor: int, size: int, read: Any = os.read) -> bytes:
            others.append(threading.Thread(target=waker.wake))
            others[0].start()
            others[0].join(0.2)
            return bytes(read(descriptor, size))

        waker.wake()
        ((descriptor, _),) = hub.poller.poll(5)
        on_woken, arguments = hub.readers[descriptor]
        monkeypatch.setattr(os, "read", read_late)
        on_woken(*arguments)
        monkeypatch.undo()
        others[0].join(5)
        waker.wake()

        assert wakes(hub) == 1
