"""What users of Celery know from any broker works on ours as on kombu's: delays, retries, rate limits, task events."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis
from celery import Celery

from tests.support.inside import Inside

APP = """
import os
import time
import redis
from celery import Celery
from petiole.tasks import EventBus

app = Celery("features", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1},
)
EventBus(app)  # its workers renew their leases
notes = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])

@app.task(name="note")
def note(text):
    notes.rpush("notes", f"{text} {time.time()}")

@app.task(name="limited", rate_limit="2/s")
def limited(text):
    notes.rpush("notes", f"{text} {time.time()}")

@app.task(name="stubborn", bind=True, max_retries=2)
def stubborn(self):
    consumer = self.request.get('petiole_consumer')
    notes.rpush("notes", f"{self.request.id}:{self.request.retries}:{consumer} {time.time()}")
    self.retry(countdown=0.3)
"""


class Features:
    """An app whose tasks note when they ran."""

    def __init__(self, url: str, node: Any, eventually: Any) -> None:
        self.client = Celery("client", broker=url, set_as_current=False)
        self.inside = Inside(url)
        self.server: Any = redis.Redis.from_url(node.environment["PETIOLE_BROKER_URL"], decode_responses=True)
        self._node, self._eventually = node, eventually
        node.module("features", APP)
        node.environment["BROKER"] = url

    def worker(self, *options: str) -> None:
        self._node.start("celery", "-A", "features", "worker", "-n", "w@h", "-l", "INFO", "--without-mingle", *options)
        self._eventually(lambda: "ready." in self._node.logs(), 30, self._node.logs)

    def send(self, task: str, *args: object, **options: Any) -> str:
        return str(self.client.send_task(task, args, ignore_result=True, **options).id)

    def expect(self, count: int, within: float = 15) -> list[tuple[str, float]]:
        """Wait for so many runs, and for the broker to know of them; returns what was noted and when."""
        self._eventually(lambda: self.server.llen("notes") >= count, within, self._node.logs)
        self._eventually(lambda: not self.inside.leases(), 5, self._node.logs)
        words = [note.split() for note in self.server.lrange("notes", 0, -1)]
        return [(text, float(at)) for text, at in words]


@pytest.fixture(params=["petiole", pytest.param("kombu", marks=pytest.mark.long)])
def features(request, node, clean_broker_url, eventually):
    node.environment["PETIOLE_TRANSPORT"] = request.param
    features = Features(clean_broker_url, node, eventually)
    yield features
    features.client.close()


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_a_task_with_a_countdown_or_an_eta_runs_once_and_in_time(features, pool):
    features.worker("-P", pool, "-c", "2")
    sent_at = time.time()

    features.send("note", "countdown", countdown=4)
    features.send("note", "eta", eta=datetime.now(UTC) + timedelta(seconds=3.5))
    features.send("note", "now")

    noted = features.expect(3)
    assert sorted(text for text, _ in noted) == ["countdown", "eta", "now"], "each once, though held for four leases"
    at = {text: moment - sent_at for text, moment in noted}
    assert at["now"] < min(at["eta"], at["countdown"])
    assert at["eta"] >= 3.4
    assert at["countdown"] >= 4


def test_a_task_that_retries_runs_again_under_its_id_until_it_gives_up(features):
    features.worker("-P", "prefork", "-c", "1")

    task_id = features.send("stubborn")

    noted = features.expect(3)
    facts = [text.split(":") for text, _ in noted]
    assert [(each[0], each[1]) for each in facts] == [(task_id, "0"), (task_id, "1"), (task_id, "2")]
    assert len({each[2] for each in facts}) == 1, "one worker: one holder"
    assert all(later - earlier >= 0.25 for (_, earlier), (_, later) in pairwise(noted))


def test_a_rate_limit_is_kept(features):
    features.worker("-P", "threads", "-c", "2")

    for number in range(5):
        features.send("limited", str(number))

    noted = features.expect(5)
    assert sorted(text for text, _ in noted) == list("01234")
    assert noted[-1][1] - noted[0][1] >= 1.5


def test_task_events_tell_what_becomes_of_a_task(features, eventually):
    heard: list[tuple[str, str]] = []
    features.worker("-P", "threads", "-c", "1", "-E")
    with features.client.connection_for_read() as connection:
        receiver = features.client.events.Receiver(
            connection, handlers={"*": lambda event: heard.append((event["type"], event.get("uuid", "")))}
        )

        with receiver.consumer_context() as (opened, _, _):

            def is_told(*expected: tuple[str, str]) -> bool:
                with suppress(TimeoutError):
                    opened.drain_events(timeout=1)
                return set(expected) <= set(heard)

            eventually(lambda: is_told(("worker-heartbeat", "")), 20, lambda: heard)

            task_id = features.send("note", "hello")

            told = [(f"task-{what}", task_id) for what in ("received", "started", "succeeded")]
            eventually(lambda: is_told(*told), 20, lambda: heard)
    features.expect(1)
