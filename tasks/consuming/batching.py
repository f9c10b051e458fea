"""Batching: run several deliveries of one subscription as one job of the pool.

For short handlers the pool's overhead for a job exceeds the handler's own time. `@agent.on(..., batch=32)` shares it:

    message ─▶ Request ─▶ waits ─┐
    message ─▶ Request ─▶ waits ─┼─▶ one job ─▶ run one by one ─▶ each Request gets its own result
    message ─▶ Request ─▶ waits ─┘

Every message remains a Celery request with its own acknowledgement, retry, events, result, and entry in `inspect`. A
batch goes to the pool when it is full, or at the end of the event loop's iteration. While all slots are busy it keeps
growing. So no message waits for a batch to fill.

Two kinds of messages run alone:

    - with Celery's ETA, rate limit or time limit
    - redelivered: a delivery that crashes its process then crashes no other deliveries
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

from petiole.tasks.consuming.request import BatchLostError

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool

    from petiole.tasks.delivery import DeliveryTask

# Celery's own objects, of which celery-types describes too little to be checked against.
CeleryConsumer: TypeAlias = Any
CeleryRequest: TypeAlias = Any

PREFETCH_BATCHES = 2
"""How many full batches a worker fetches for each slot: one that runs and one that collects."""

TraceArguments: TypeAlias = tuple[Any, ...]
"""What Celery's tracer takes: task name, id, headers, body, content type, content encoding."""

TraceResult: TypeAlias = tuple[int, Any, float]
"""What Celery's tracer returns: a failure flag, the value or the failure, the duration in seconds."""


def batch_strategy(task: DeliveryTask, app: Any, consumer: CeleryConsumer) -> Callable[..., Any]:
    """Make the function that receives a task's messages. Celery calls this at each start of a consumer."""
    size = task.handler.batch
    if size is None or task.time_limit or task.soft_time_limit:
        return default(task, app, consumer)
    if task.handler.subscription.queue in app.amqp.queues.consume_from:
        _raise_prefetch(consumer, size)
    return default(task, app, _BatchingConsumer(consumer, BatchCollector(app, consumer, size)))


def run_one_by_one(trace: Callable[..., TraceResult], calls: Iterable[TraceArguments]) -> list[TraceResult | None]:
    """Run deliveries one after another in a slot of the pool. The result of a revoked one is None."""
    # The solo and threads pools share `revoked` with the consumer; a forked child's copy is never updated.
    return [None if call[1] in revoked else _make_picklable(trace(*call)) for call in calls]


def _make_picklable(result: TraceResult) -> TraceResult:
    """Replace a failure that cannot be pickled, because it would lose the results of the whole batch."""
    failed, value, runtime = result
    if not failed:
        return result
    try:
        pickle.dumps(value)
    except (pickle.PickleError, TypeError, AttributeError) as error:
        return failed, _as_failure(MaybeEncodingError(error, value)), runtime
    return result


class BatchCollector:
    """The deliveries of one subscription that wait for a slot in this worker."""

    def __init__(self, app: Any, consumer: CeleryConsumer, size: int) -> None:
        self._app = app
        self._consumer = consumer
        self._size = size
        self._waiting: deque[CeleryRequest] = deque()
        self._slots_requested = 0
        self._is_request_scheduled = False

    def add(self, request: CeleryRequest) -> None:
        """Add a request that is ready to run."""
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
        """Run a batch in a free slot; Celery calls this as for a request.

        Raises TaskRevokedError if all its requests were revoked.
        """
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
        # The worker sets it when it starts; the stubs do not have it.
        return fast_trace_task if getattr(self._app, "use_fast_trace_task", False) else trace_task_ret


class Batch:
    """Requests that share one job of the pool; each gets its own result."""

    def __init__(self, requests: list[CeleryRequest]) -> None:
        self._requests = requests

    def execute_using_pool(self, pool: BasePool, trace: Callable[..., Any]) -> None:
        """Send the job to the pool."""
        job = pool.apply_async(
            run_one_by_one,
            args=(trace, [_trace_arguments(request) for request in self._requests]),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_results,
            error_callback=self.on_lost,
        )
        for request in self._requests:
            # Celery terminates a request by this reference, which is a weak one for its own requests too.
            request._apply_result = ref(job) if job is not None else None  # noqa: SLF001

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """Notify all requests that their job has started."""
        self._notify_each(lambda request: request.on_accepted(pid, time_accepted))

    def on_results(self, results: list[TraceResult | None] | ExceptionInfo) -> None:
        """Give each request its result. The solo pool reports a lost job here too."""
        if isinstance(results, ExceptionInfo):
            self.on_lost(results)
            return
        with ExitStack() as stack:
            for request, result in reversed(list(zip(self._requests, results, strict=True))):
                stack.callback(request.on_success, result) if result is not None else stack.callback(request.revoked)

    def on_lost(self, failure: ExceptionInfo) -> None:
        """Have all requests redelivered: without results it is unknown which of them ran.

        Every failure is passed on as BatchLostError. After some of them Celery would acknowledge all requests: a time
        limit of the worker, or the termination of one request, which is recorded at that request.
        """
        cause = getattr(failure.exception, "exc", failure.exception)  # as the pipe wraps it
        lost = _as_failure(BatchLostError(f"the batch of this delivery brought no results: {cause!r}"))
        self._notify_each(lambda request: None if _is_revoked(request) else request.on_failure(lost))

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - the pool's signature
        """Notify all requests of the worker's soft time limit. The hard limit kills the process: see `on_lost`."""
        if soft:
            self._notify_each(lambda request: request.on_timeout(soft, timeout))

    def _notify_each(self, notify: Callable[[CeleryRequest], object]) -> None:
        # The stack calls the remaining callbacks even if one raises.
        with ExitStack() as stack:
            for request in reversed(self._requests):
                stack.callback(notify, request)


class _BatchingConsumer:
    """A proxy of the consumer that passes requests to the collector when they are ready to run."""

    def __init__(self, consumer: CeleryConsumer, collector: BatchCollector) -> None:
        self._consumer = consumer
        self.on_task_request = collector.add

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def _raise_prefetch(consumer: CeleryConsumer, size: int) -> None:
    """Raise a limited prefetch count, because a batch cannot be larger than it."""
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
