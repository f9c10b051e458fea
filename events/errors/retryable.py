"""Retryable: what may succeed later."""

from __future__ import annotations

from datetime import datetime, timedelta

from petiole.events.errors.base import Retryable, shown


class BrokerUnavailable(Retryable):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the broker could not be reached while {self.what}; start it (petiole up) or check PETIOLE_BROKER_URL"


class BrokerFull(BrokerUnavailable):
    """The server answers, and refuses what would take memory. Publishing again later is safe.

    `server` is the one that has no memory left: the broker, or the state store where that is another server.
    """

    def __init__(self, what: str, answer: str, server: str = "the broker") -> None:
        Retryable.__init__(self, what, answer, server)
        self.what = what
        self.answer = answer
        self.server = server

    def __str__(self) -> str:
        return (
            f"{self.server} has no memory left while {self.what}: {shown(self.answer)}; let workers empty the queues, "
            "free memory or raise its maxmemory, then publish again, which publishes once"
        )


class PublishOutcomeUnknown(BrokerUnavailable):
    """It is not known whether the events were published; publishing them again is safe, and makes sure."""

    def __str__(self) -> str:
        return (
            f"the connection to the broker was lost while {self.what}; whether it was published is not known: publish "
            "the same events again, which publishes them once"
        )


class StateStoreUnavailable(Retryable):
    """The state store did not answer. Where the broker is the state store too, its outage is BrokerUnavailable."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the state store could not be reached while {self.what}; start it or check PETIOLE_STATE_URL"


class RetryLater(Retryable):
    """A handler raises it, or what it calls does: the delivery comes again in `after_s` seconds."""

    def __init__(self, reason: str, after_s: float, *, code: str = "") -> None:
        super().__init__(reason, after_s, code=code)
        self.reason = reason
        self.after_s = after_s

    def __str__(self) -> str:
        return f"{self.reason}; try again in {self.after_s} s"


class ServiceUnavailable(RetryLater):
    """A guarded dependency was not called. `retry_at` is when it may be; `after_s` is that, spread a little."""

    def __init__(self, service: str, retry_at: datetime, after_s: float) -> None:
        Retryable.__init__(self, service, retry_at, after_s)
        self.reason = "Circuit breaker open"
        self.service = service
        self.retry_at = retry_at
        self.after_s = after_s

    @property
    def after(self) -> timedelta:
        """How long to wait before another try."""
        return timedelta(seconds=self.after_s)

    def __str__(self) -> str:
        return (
            f"{self.reason}: {self.service} is not called before {self.retry_at}; try again in {self.after_s} s, and "
            "see what it fails with: petiole breakers"
        )


class RateLimitExceeded(RetryLater):
    """A call was not made. `why` is pause, where the provider wants that, or quota."""

    def __init__(self, account: str, why: str, after_s: float) -> None:
        Retryable.__init__(self, account, why, after_s)
        self.reason = f"no room in the budget {account} ({why})"
        self.account = account
        self.why = why
        self.after_s = after_s


class LeaseLost(Retryable):
    """Nothing of this run was published or noted; whoever has the delivery now handles it."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id

    def __str__(self) -> str:
        return (
            f"delivery {self.delivery_id} was given to another worker, because this one was silent for too long; keep "
            "handlers from blocking the whole process, or raise PETIOLE_VISIBILITY_TIMEOUT_S"
        )


class OperationInProgress(Retryable):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} was begun elsewhere for the key {self.key!r} at {self.since}; try again later, when it "
            "is done, or has taken longer than the limit it was given"
        )


class SystemStopping(Retryable):
    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.prefix = prefix

    def __str__(self) -> str:
        return (
            f"the system {self.prefix!r} was shut down, so nothing was published; look for the critical error "
            "(petiole tail 'error.*' --from-start), start a worker, and publish again"
        )


class QueueFull(Retryable):
    def __init__(self, queue: str, topic: str) -> None:
        super().__init__(queue, topic)
        self.queue = queue
        self.topic = topic

    def __str__(self) -> str:
        return (
            f"{self.topic}: the queue {self.queue!r} is full, so nothing was published; try again later, start more "
            f"workers (celery -A workers worker -Q {self.queue}), or raise the agent's capacity"
        )


class RequestTimedOut(Retryable):
    def __init__(self, request_type: str, responder: str, timeout_s: float) -> None:
        super().__init__(request_type, responder, timeout_s)
        self.request_type = request_type
        self.responder = responder
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"request {shown(self.request_type)}: {self.responder!r} gave no answer within {self.timeout_s} s; see "
            "whether a worker of it runs and how much waits in its queue, or give the request a longer timeout"
        )


class HandlerTimedOut(Retryable):
    def __init__(self, subscription: str, timeout_s: float) -> None:
        super().__init__(subscription, timeout_s)
        self.subscription = subscription
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"{self.subscription} did not end within {self.timeout_s} s; give what it waits for a shorter limit, "
            "or raise the subscription's timeout"
        )


class StreamTimeout(Retryable):
    def __init__(self, stream_id: str, timeout_s: float, last_number: int) -> None:
        super().__init__(stream_id, timeout_s, last_number)
        self.stream_id = stream_id
        self.timeout_s = timeout_s
        self.last_number = last_number

    def __str__(self) -> str:
        return (
            f"nothing more came of the answer in stream {shown(self.stream_id)} within {self.timeout_s:g} s; "
            f"does a worker run? Read on with after={self.last_number}"
        )


class StreamSuperseded(Retryable):
    def __init__(self, answer_id: str, attempt: int) -> None:
        super().__init__(answer_id, attempt)
        self.answer_id = answer_id
        self.attempt = attempt

    def __str__(self) -> str:
        return f"another run writes the answer {self.answer_id} by now; run {self.attempt} is over, and writes no more"


class StreamBusy(Retryable):
    def __init__(self, stream_id: str, answer_id: str) -> None:
        super().__init__(stream_id, answer_id)
        self.stream_id = stream_id
        self.answer_id = answer_id

    def __str__(self) -> str:
        return (
            f"the answer {self.answer_id} of stream {shown(self.stream_id)} is still being written, and on_busy is "
            "'reject'; ask again once it has ended"
        )


class ProviderUnavailable(Retryable):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} did not answer: {self.reason}; try again later, or check its settings"


def service_throttled(service: str, after_s: float) -> RetryLater:
    """A dependency answered with Retry-After. The error that it answered with is the cause."""
    return RetryLater(f"{service} asks to be left alone (Retry-After)", after_s, code="service_throttled")


def broker_not_started(directory: str, reason: str, log: str = "") -> Retryable:
    last_lines = f"\nthe last lines of its log:\n{log}" if log else ""
    return Retryable(
        f"the embedded broker in {directory} was not started: {reason}; mend that and start it "
        f"again, or set PETIOLE_BROKER_URL to a Redis or Valkey of your own{last_lines}",
        code="broker_not_started",
    )


def broker_not_stopped(directory: str, reason: str) -> Retryable:
    return Retryable(
        f"the embedded broker in {directory} still runs: {reason}; "
        "try again, or end the process whose number is in its valkey.pid",
        code="broker_not_stopped",
    )


def requester_stopped(request_type: str) -> Retryable:
    return Retryable(
        f"request {shown(request_type)}: this process ends and waits no longer; ask again from another",
        code="requester_stopped",
    )


def tool_timeout(tool: str, timeout_s: float) -> Retryable:
    return Retryable(
        f"{tool} did not end within {timeout_s:g} s; ask it for less, or raise its timeout", code="tool_timeout"
    )


def worker_not_started(node: str, reason: str, log: str = "") -> Retryable:
    last_lines = f"; the last lines it wrote:\n{log}" if log else ""
    return Retryable(f"the worker {node} {reason}{last_lines}", code="worker_not_started")
