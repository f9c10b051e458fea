"""Nothing is lost when a worker or the broker is killed. How often, is set by the environment; `make faults` is longer.

Handled numbers are noted in a file, which no fault here can touch.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

import petiole.tasks.transport
from petiole.workers.process import embedded_broker

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
WORKER_KILLS = int(os.environ.get("PETIOLE_FAULT_WORKER_KILLS", "2"))
MESSAGES_PER_KILL = int(os.environ.get("PETIOLE_FAULT_MESSAGES_PER_KILL", "1000"))
BROKER_KILLS = int(os.environ.get("PETIOLE_FAULT_BROKER_KILLS", "2"))

WORKER = """
import os
import petiole.tasks.transport
from celery import Celery

app = Celery("numbers", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=32,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
        "socket_timeout": 5, "socket_connect_timeout": 2,
    },
)
tally = os.open(os.environ["TALLY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="note")
def note(number):
    os.write(tally, b"%d\\n" % number)
"""


class Tally:
    """How often each number was handled."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.published: list[int] = []

    def handled(self) -> Counter[int]:
        return Counter(map(int, self._path.read_text().split())) if self._path.exists() else Counter()

    def is_complete(self) -> bool:
        return len(self.handled()) >= len(self.published)

    def __str__(self) -> str:
        handled = self.handled()
        lost = set(self.published) - set(handled)
        repeated = handled.total() - len(handled)
        return f"published {len(self.published)}, handled {len(handled)}, lost {len(lost)}, run again {repeated}"


@pytest.fixture
def tally(node) -> Tally:
    path = node.home / "tally"
    node.module("numbers_app", WORKER)
    node.environment["TALLY"] = str(path)
    return Tally(path)


def start_worker(node, eventually, pool: str) -> subprocess.Popen[bytes]:
    options = f"-P {pool} -c 2 -n {len(node.processes)}@h --without-mingle"
    node.start(*f"celery -A numbers_app worker {options}".split())
    log = node.home / f"{len(node.processes) - 1}.log"
    eventually(lambda: "celery@" in log.read_text() or "tasks" in log.read_text(), 30, node.logs)
    worker: subprocess.Popen[bytes] = node.processes[-1]
    return worker


def publish(url: str, tally: Tally, count: int) -> None:
    """Publish so many numbers more, each until the broker has confirmed it."""
    client = Celery("client", broker=url, set_as_current=False)
    begin = len(tally.published)
    for start in range(begin, begin + count, 100):
        numbers = range(start, min(start + 100, begin + count))
        while not is_sent(client, numbers):
            time.sleep(0.05)
        tally.published.extend(numbers)
    client.close()


def is_sent(client: Celery, numbers: range) -> bool:
    try:
        with client.connection_for_write() as connection, connection.Producer() as producer:
            batching: Any = producer  # the stubs know of no batches
            with batching.batch():
                for number in numbers:
                    client.send_task("note", (number,), producer=producer, retry=False, ignore_result=True)
    except (KombuError, RedisError, OSError):
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(60 + 30 * WORKER_KILLS)
@pytest.mark.parametrize("pool", ["threads", "solo"] if IS_FULL else ["threads"])
def test_a_worker_that_is_killed_under_load_loses_nothing(  # noqa: PLR0917 - fixtures
    pool, node, tally, clean_broker_url, eventually, capsys
):
    url = petiole.tasks.transport.with_transport_prefix(clean_broker_url)
    node.environment["BROKER"] = url
    workers = [start_worker(node, eventually, pool) for _ in range(2)]

    for kill in range(WORKER_KILLS):
        before = len(tally.handled())
        publish(url, tally, MESSAGES_PER_KILL)
        share = random.uniform(0.0, 0.6)
        eventually(lambda: len(tally.handled()) > before + share * MESSAGES_PER_KILL, 30, node.logs)  # noqa: B023
        workers[kill % 2].kill()
        workers[kill % 2].wait()
        workers[kill % 2] = start_worker(node, eventually, pool)

    eventually(tally.is_complete, 60, lambda: f"{tally}\n{node.logs()[-3000:]}")
    with capsys.disabled():
        print(f"\n{pool}, {WORKER_KILLS} workers killed: {tally}")
    assert set(tally.handled()) == set(tally.published)


@pytest.fixture
def home(tmp_path) -> Iterator[Path]:
    """Give the home of a server of one's own."""
    home = tmp_path / "broker"
    yield home
    embedded_broker.stop_broker(home)


def start_broker(home: Path) -> str:
    url = embedded_broker.start_broker(home).url
    with redis.Redis.from_url(url) as client:
        client.config_set("appendfsync", "always")
    return url


def kill_broker(home: Path) -> None:
    os.kill(int((home / "valkey" / "valkey.pid").read_text()), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(120 + 30 * BROKER_KILLS)
@pytest.mark.parametrize("pool", ["prefork", "threads"] if IS_FULL else ["prefork"])
def test_a_broker_that_is_killed_under_load_loses_nothing(  # noqa: PLR0917 - fixtures
    pool, node, tally, home, eventually, capsys
):
    address = start_broker(home)
    url = petiole.tasks.transport.with_transport_prefix(address)
    node.environment["BROKER"] = url
    worker = start_worker(node, eventually, pool)
    recoveries = []

    for _ in range(BROKER_KILLS):
        before = len(tally.handled())
        publish(url, tally, 1000)
        eventually(lambda: len(tally.handled()) > before + 50, 30, node.logs)  # noqa: B023
        kill_broker(home)
        eventually(lambda: start_broker(home) == address, 30)
        recovered_from, since = time.monotonic(), len(tally.handled())
        publish(url, tally, 100)
        eventually(lambda: len(tally.handled()) > since, 30, node.logs)  # noqa: B023
        recoveries.append(time.monotonic() - recovered_from)
        assert worker.poll() is None, node.logs()

    eventually(tally.is_complete, 60, lambda: f"{tally}\n{node.logs()[-3000:]}")
    with capsys.disabled():
        slowest = max(recoveries)
        print(f"\n{pool}, {BROKER_KILLS} brokers killed: {tally}, slowest recovery {slowest:.2f} s")
    assert set(tally.handled()) == set(tally.published)
    assert worker.poll() is None
