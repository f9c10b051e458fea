"""What a worker does with the processes of its prefork pool."""

from __future__ import annotations

import time

from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop

from petiole.tasks.celery import private_app
from petiole.tasks.consuming.process_pool import end_without_pauses


def test_an_idle_pool_ends_without_the_second_that_a_process_sleeps_and_the_half_of_a_thread():
    assert min(_end_of_an_idle_pool_s() for _ in range(3)) < 1


def _end_of_an_idle_pool_s() -> float:
    hub = Hub()
    set_event_loop(hub)
    pool = TaskPool(2, app=private_app(), initargs=(private_app(), "w@here"), threads=False)
    pool.start()
    pool.register_with_event_loop(hub)
    began = time.monotonic()
    end_without_pauses(pool)
    pool.stop()
    took_s = time.monotonic() - began
    hub.close()
    return took_s
