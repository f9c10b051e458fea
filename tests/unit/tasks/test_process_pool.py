"""What a worker does with the processes of its prefork pool."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop

from petiole.tasks.celery import private_app
from petiole.tasks.consuming.process_pool import end_without_pauses, watch_again
from tests.support.polling import wait_until


def test_an_idle_pool_ends_without_the_second_that_a_process_sleeps_and_the_half_of_a_thread():
    assert min(_end_of_an_idle_pool_s() for _ in range(3)) < 1


def test_a_process_that_ended_while_the_connection_was_lost_is_replaced():
    hub, pool = _start_pool()
    processes: Any = pool._pool
    ended, other = processes._pool
    processes._untrack_child_process(ended, hub)
    os.kill(ended.pid, signal.SIGKILL)

    watch_again(pool)
    pool.register_with_event_loop(hub)
    loop = hub.create_loop()
    wait_until(lambda: (next(loop), ended not in processes._pool)[1], 20)

    assert other in processes._pool
    assert len(processes._pool) == 2
    pool.stop()
    hub.close()


def _start_pool() -> tuple[Hub, Any]:
    hub = Hub()
    set_event_loop(hub)
    pool: Any = TaskPool(2, app=private_app(), initargs=(private_app(), "w@here"), threads=False)
    pool.start()
    pool.register_with_event_loop(hub)
    return hub, pool


def _end_of_an_idle_pool_s() -> float:
    hub, pool = _start_pool()
    began = time.monotonic()
    end_without_pauses(pool)
    pool.stop()
    took_s = time.monotonic() - began
    hub.close()
    return took_s
