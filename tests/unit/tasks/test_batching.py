from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadsPool
from celery.worker.state import revoked as revoked_ids

from petiole.tasks import EventBus
from petiole.tasks.consuming.batching import BatchCollector
from tests.support.apps import a_bus

SIZE = 4


class ARequest:
    """A stand-in for Celery's request that records its notifications."""

    type = "quick.handle"
    body = content_type = content_encoding = None
    _already_revoked = _already_cancelled = False

    def __init__(self, name: str, *, redelivered: bool = False, time_limit: float | None = None) -> None:
        self.id = name
        self.request_dict: dict[str, object] = {}
        self.delivery_info = {"redelivered": redelivered}
        self.time_limits = (time_limit, None)
        self.notifications: list[object] = []

    def revoked(self) -> bool:
        if self.id in revoked_ids:
            self.notifications.append("revoked")
        return self.id in revoked_ids

    def execute_using_pool(self, pool: object) -> None:
        self.notifications.append("ran alone")

    def on_accepted(self, pid: object, time_accepted: object) -> None:
        self.notifications.append("accepted")

    def on_success(self, result: tuple[int, object, float]) -> None:
        self.notifications.append(result[1])

    def on_failure(self, failure: Any) -> None:
        self.notifications.append(type(failure.exception.exc).__name__)


class AConsumer:
    """A stand-in for the consumer: `call_soon` runs at the end of a loop iteration; requests wait for free slots."""

    def __init__(self, pool: object) -> None:
        self.pool = pool
        self.slots = 10
        self.soon: list[Callable[[], object]] = []
        self.waiting: list[Any] = []

    def call_soon(self, function: Callable[[], object]) -> None:
        self.soon.append(function)

    def on_task_request(self, request: Any) -> None:
        self.waiting.append(request)
        self.give_slots()

    def give_slots(self) -> None:
        while self.waiting and self.slots:
            self.slots -= 1
            self.waiting.pop(0).execute_using_pool(self.pool)

    def end_iteration(self) -> None:
        while self.soon:
            self.soon.pop()()


class Pool:
    """A stand-in for the pool that records its jobs."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def apply_async(self, target: object, **job: Any) -> None:
        self.jobs.append(job)

    def sizes(self) -> list[int]:
        return [len(job["args"][1]) for job in self.jobs]


@pytest.fixture
def bus(monkeypatch) -> EventBus:
    bus = a_bus()
    monkeypatch.setattr("petiole.tasks.consuming.batching.trace_task_ret", trace)
    # Celery keeps revoked ids for the whole process.
    revoked_ids.discard("revoked meanwhile")
    return bus


def trace(task: str, name: str, *message: object) -> tuple[int, object, float]:
    if name == "revokes":
        revoked_ids.add("revoked meanwhile")
    if name == "exits":
        raise SystemExit(1)
    return (0, f"{name} ran", 0.0)


def add(bus: EventBus, consumer: AConsumer, *names: str) -> list[ARequest]:
    requests = [ARequest(name) for name in names]
    collector = BatchCollector(bus, consumer, SIZE)
    for request in requests:
        collector.add(request)
    return requests


def test_messages_of_one_loop_iteration_share_jobs_and_an_incomplete_batch_does_not_wait(bus):
    consumer = AConsumer(pool := Pool())

    add(bus, consumer, *"abcdefghij")

    assert pool.sizes() == [4, 4], "a full batch is sent at once"
    consumer.end_iteration()
    assert pool.sizes() == [4, 4, 2]


def test_a_batch_grows_while_all_slots_are_busy(bus):
    consumer = AConsumer(pool := Pool())
    consumer.slots = 0
    collector = BatchCollector(bus, consumer, SIZE)
    for name in "abc":
        collector.add(ARequest(name))
        consumer.end_iteration()

    consumer.slots = 1
    consumer.give_slots()

    assert pool.sizes() == [3]
    assert consumer.waiting == []


def test_a_single_message_runs_without_a_batch(bus):
    consumer = AConsumer(pool := Pool())

    (request,) = add(bus, consumer, "a")
    consumer.end_iteration()

    assert (request.notifications, pool.jobs) == (["ran alone"], [])


@pytest.mark.parametrize("request_", [ARequest("a", redelivered=True), ARequest("a", time_limit=5.0)])
def test_redelivered_and_time_limited_messages_run_alone_and_at_once(bus, request_):
    BatchCollector(bus, AConsumer(Pool()), SIZE).add(request_)

    assert request_.notifications == ["ran alone"]


@pytest.mark.parametrize("pool_class", [SoloPool, ThreadsPool])
def test_solo_and_threads_pools_skip_deliveries_that_were_revoked_during_the_batch(bus, pool_class):
    pool = pool_class(2)

    requests = add(bus, consumer := AConsumer(pool), "a", "revokes", "revoked meanwhile")
    consumer.end_iteration()
    pool.stop()  # waits for running jobs

    assert [request.notifications for request in requests] == [
        ["accepted", "a ran"],
        ["accepted", "revokes ran"],
        ["accepted", "revoked"],
    ]


def test_a_process_that_ends_during_a_batch_fails_every_request_as_lost(bus):
    requests = add(bus, consumer := AConsumer(SoloPool(1)), "a", "exits", "c")
    consumer.end_iteration()

    assert [request.notifications for request in requests] == [["accepted", "BatchLostError"]] * 3


def test_a_failing_callback_of_one_request_does_not_keep_results_from_others(bus, monkeypatch):
    consumer = AConsumer(SoloPool(1))
    requests = [ARequest("a"), ARequest("b")]
    monkeypatch.setattr(requests[0], "on_success", lambda result: 1 // 0)
    collector = BatchCollector(bus, consumer, SIZE)
    for request in requests:
        collector.add(request)

    with pytest.raises(ZeroDivisionError):
        consumer.end_iteration()

    assert requests[1].notifications == ["accepted", "b ran"]
