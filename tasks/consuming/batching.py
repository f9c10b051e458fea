"""Batching: several deliveries of one subscription go to a slot of the pool as one job.

For short handlers a job's way into the pool and back costs more than the handler. `@agent.on(..., batch=32)` shares it:

    message ─▶ Request ─▶ waits ─┐
    message ─▶ Request ─▶ waits ─┼─▶ one job ─▶ run one by one ─▶ each Request told its own result
    message ─▶ Request ─▶ waits ─┘

Every message stays a Celery request of its own, with its own acknowledgement, retry, events, result, and place in
`inspect`. What is gathered is handed over at the end of the loop's turn or as soon as a batch is full; where every slot
is busy it goes on gathering until one is free. So nothing waits for a batch to fill.

What runs alone, as without batches: a message with an ETA, a rate or a time limit of Celery's; and one that the
broker delivers again, so that what killed a child shows itself by killing one more, without mates.
"""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from billiard.einfo import ExceptionInfo
from billiard.pool import MaybeEncodingError
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.exceptions import TaskRevokedError
from celery.worker.state import revoked
from celery.worker.strategy import default

from petiole.tasks.consuming.request import BatchLost

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool

    from petiole.tasks.delivery import DeliveryTask

# Celery's own objects, of which celery-types describes too little to be checked against.
CeleryConsumer: TypeAlias = Any
CeleryRequest: TypeAlias = Any

PREFETCH_BATCHES = 2
"""How many full batches a worker fetches for each slot: one to run, one to gather meanwhile."""

TraceArguments: TypeAlias = tuple[Any, ...]
"""What Celery's tracer takes: task name, id, headers, body, content type, content encoding."""

TraceResult: TypeAlias = tuple[int, Any, float]
"""What Celery's tracer returns: whether it failed, the value or the failure, the seconds it took."""


def batch_strategy(task: DeliveryTask, app: Any, consumer: CeleryConsumer) -> Callable[..., Any]:
    """Make the function that takes a task's messages; Celery calls this at each start of a consumer."""
    size = task.handler.batch
    if size is None or task.time_limit or task.soft_time_limit:
        return default(task, app, consumer)
    if task.handler.subscription.queue in app.amqp.queues.consume_from:
        _raise_prefetch(consumer, size)
    return default(task, app, _BatchingConsumer(consumer, BatchCollector(app, consumer, size)))


def run_one_by_one(trace: Callable[..., TraceResult], calls: Iterable[TraceArguments]) -> list[TraceResult | None]:
    """Run deliveries one after another, in a slot of the pool; None for one that was revoked meanwhile."""
    # A forked child never hears of what is revoked; solo and threads share it with the consumer.
    return [None if call[1] in revoked else _make_picklable(trace(*call)) for call in calls]


def _make_picklable(result: TraceResult) -> TraceResult:
    """Replace a failure that no pipe can carry: it would take its mates' results with it."""
    failed, value, runtime = result
    if not failed:
        return result
    try:
        pickle.dumps(value)
    except (pickle.PickleError, TypeError, AttributeError) as error:
        return failed, _as_failure(MaybeEncodingError(error, value)), runtime
    return result


class BatchCollector:
    """The deliveries of one subscription that wait in this worker for a slot."""

    def __init__(self, app: Any, consumer: CeleryConsumer, size: int) -> None:
        self._app = app
        self._consumer = consumer
        self._size = size
        self._waiting: deque[CeleryRequest] = deque()
        self._slots_requested = 0
        self._is_request_scheduled = False

    def add(self, request: CeleryRequest) -> None:
        """Take a request that is ready to run."""
        if request.delivery_info.get("redelivered") or any(request.time_limits):
            self._consumer.on_task_request(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= self._size * (self._slots_requested + 1):
            self._request_slot()
        elif not self._is_request_scheduled:
            self._is_request_scheduled = True
            self._consumer.call_soon(self._request_remaining_slots)

    def execute_using_pool(self, pool: BasePool, **_: object) -> None:
        """Fill the slot that was given, as Celery tells a request to. Raises TaskRevokedError where nothing is left."""
        self._slots_requested -= 1
        requests = [request for request in self._take_batch() if not request.revoked()]
        if not requests:
            raise TaskRevokedError
        if len(requests) == 1:
            requests[0].execute_using_pool(pool)
        else:
            Batch(requests).execute_using_pool(pool, self._trace)

    def _request_remaining_slots(self) -> None:
        self._is_request_scheduled = False
        for _ in range(math.ceil(len(self._waiting) / self._size) - self._slots_requested):
            self._request_slot()

    def _request_slot(self) -> None:
        self._slots_requested += 1
        self._consumer.on_task_request(self)

    def _take_batch(self) -> list[CeleryRequest]:
        return [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]

    @property
    def _trace(self) -> Callable[..., Any]:
        # Set by the worker when it starts; the stubs do not know it.
        return fast_trace_task if getattr(self._app, "use_fast_trace_task", False) else trace_task_ret


class Batch:
    """Requests that share one job of the pool; each is told what becomes of it."""

    def __init__(self, requests: list[CeleryRequest]) -> None:
        self._requests = requests

    def execute_using_pool(self, pool: BasePool, trace: Callable[..., Any]) -> None:
        """Hand them over."""
        job = pool.apply_async(
            run_one_by_one,
            args=(trace, [_trace_arguments(request) for request in self._requests]),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_results,
            error_callback=self.on_lost,
        )
        for request in self._requests:
            # Where Celery looks when a request is to be terminated; it holds none either.
            request._apply_result = ref(job) if job is not None else None  # noqa: SLF001

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """All of them are in a slot."""
        self._notify_each(lambda request: request.on_accepted(pid, time_accepted))

    def on_results(self, results: list[TraceResult | None] | ExceptionInfo) -> None:
        """All of them were run; the solo pool brings its losses here too."""
        if isinstance(results, ExceptionInfo):
            self.on_lost(results)
            return
        with ExitStack() as told:
            for request, result in reversed(list(zip(self._requests, results, strict=True))):
                told.callback(request.on_success, result) if result is not None else told.callback(request.revoked)

    def on_lost(self, failure: ExceptionInfo) -> None:
        """The job brought no results, so nobody knows how far it came: all of them are delivered again.

        As told by the pool some failures would end them all, and acknowledge them: a limit of the worker's, or a
        termination that was meant for one of them and has been noted there.
        """
        cause = getattr(failure.exception, "exc", failure.exception)  # as the pipe wraps it
        lost = _as_failure(BatchLost(f"the batch of this delivery brought no results: {cause!r}"))
        self._notify_each(lambda request: None if _is_revoked(request) else request.on_failure(lost))

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - the pool's signature
        """A limit of the whole worker's was reached; the hard one ends the slot, which is told as a loss."""
        if soft:
            self._notify_each(lambda request: request.on_timeout(soft, timeout))

    def _notify_each(self, notify: Callable[[CeleryRequest], object]) -> None:
        # A stack tells all of them, even if telling one fails.
        with ExitStack() as told:
            for request in reversed(self._requests):
                told.callback(notify, request)


class _BatchingConsumer:
    """The consumer as Celery's own strategy sees it, but for where it takes what is ready to run."""

    def __init__(self, consumer: CeleryConsumer, collector: BatchCollector) -> None:
        self._consumer = consumer
        self.on_task_request = collector.add

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def _raise_prefetch(consumer: CeleryConsumer, size: int) -> None:
    """Raise how much the consumer fetches ahead, where that is limited: a batch cannot be larger."""
    if not consumer.initial_prefetch_count:
        return
    consumer.prefetch_multiplier = max(consumer.prefetch_multiplier, PREFETCH_BATCHES * size)
    consumer.initial_prefetch_count = max(consumer.initial_prefetch_count, consumer.max_prefetch_count)


def _trace_arguments(request: CeleryRequest) -> TraceArguments:
    return (
        request.type,
        request.id,
        request.request_dict,
        request.body,
        request.content_type,
        request.content_encoding,
    )


def _is_revoked(request: CeleryRequest) -> bool:
    return bool(request._already_revoked or request._already_cancelled)  # noqa: SLF001 - Celery keeps them there


def _as_failure(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()
