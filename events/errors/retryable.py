"""Retryable errors: the same call may succeed later."""

from __future__ import annotations

from datetime import datetime, timedelta

from petiole.events.errors.base import Retryable, quote

_AFTER_A_REFUSAL = "correct the server, or wait for its failover, then try again (duplicates are detected)"


class BrokerUnavailable(Retryable):
    """The broker did not answer, or refused with the `answer`."""

    def __init__(self, what: str, answer: str = "", remedy: str = "") -> None:
        super().__init__(what, answer, remedy)
        self.what, self.answer = what, answer
        self.remedy = remedy or (_AFTER_A_REFUSAL if answer else "start it (petiole up) or check PETIOLE_BROKER_URL")

    def __str__(self) -> str:
        return f"the broker {_problem(self.what, self.answer)}; {self.remedy}"


class BrokerFull(BrokerUnavailable):
    """The server is out of memory and rejects writes. Publishing again later is safe.

    `server` names the server: the broker, or the state store if that is another server.
    """

    def __init__(self, what: str, answer: str, server: str = "the broker") -> None:
        Retryable.__init__(self, what, answer, server)
        self.what = what
        self.answer = answer
        self.server = server

    def __str__(self) -> str:
        return (
            f"{self.server} was out of memory while {self.what}: {quote(self.answer)}; let workers drain the queues, "
            "free memory or raise maxmemory, then publish again (duplicates are detected)"
        )


class PublishOutcomeUnknown(BrokerUnavailable):
    """The events may have been published. Publishing them again is safe: duplicates are detected."""

    def __str__(self) -> str:
        return (
            f"the connection to the broker was lost while {self.what}, so the events may have been published; publish "
            "the same events again (duplicates are detected)"
        )


class StateStoreUnavailable(Retryable):
    """The state store failed as in BrokerUnavailable, which is raised instead if the broker is the state store too."""

    def __init__(self, what: str, answer: str = "", remedy: str = "") -> None:
        super().__init__(what, answer, remedy)
        self.what, self.answer = what, answer
        self.remedy = remedy or (_AFTER_A_REFUSAL if answer else "start it or check PETIOLE_STATE_URL")

    def __str__(self) -> str:
        return f"the state store {_problem(self.what, self.answer)}; {self.remedy}"


class RetryLater(Retryable):
    """Defer the delivery for `after_s` seconds without counting an attempt. Handlers may raise it."""

    def __init__(self, reason: str, after_s: float, *, code: str = "") -> None:
        super().__init__(reason, after_s, code=code)
        self.reason = reason
        self.after_s = after_s

    def __str__(self) -> str:
        return f"{self.reason}; try again in {self.after_s} s"


class ServiceUnavailable(RetryLater):
    """The circuit breaker is open, so the dependency was not called.

    `retry_at` is when the next probe is allowed. `after_s` is the wait until then, with jitter.
    """

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
            "see its last error: petiole breakers"
        )


class RateLimitExceeded(RetryLater):
    """The call was not made. `why` is "quota", or "pause" if the provider asked to wait."""

    def __init__(self, account: str, why: str, after_s: float) -> None:
        Retryable.__init__(self, account, why, after_s)
        self.reason = f"rate limit of account {account} reached ({why})"
        self.account = account
        self.why = why
        self.after_s = after_s


class LeaseLost(Retryable):
    """Another worker has the delivery. Nothing of this attempt was published or stored."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id

    def __str__(self) -> str:
        return (
            f"delivery {self.delivery_id} was redelivered to another worker because this one did not renew its lease "
            "in time; do not block the whole process in handlers, or raise PETIOLE_VISIBILITY_TIMEOUT_S"
        )


class OperationInProgress(Retryable):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} has been running in another process for the key {self.key!r} since {self.since}; try "
            "again when it has finished or exceeded its limit"
        )


class SystemStopping(Retryable):
    """The system was shut down: nothing was published. `request_type` is that of a request whose reply was awaited."""

    def __init__(self, prefix: str, request_type: str | None = None) -> None:
        super().__init__(prefix, request_type)
        self.prefix = prefix
        self.request_type = request_type

    def __str__(self) -> str:
        if self.request_type is None:
            effect, again = "so nothing was published", "publish again"
        else:
            effect, again = f"so the request {quote(self.request_type)} gets no reply", "request again"
        return (
            f"the system {self.prefix!r} was shut down, {effect}; read the critical error "
            f"(petiole tail 'error.*' --from-start), start a worker, and {again}"
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
            f"request {quote(self.request_type)}: agent {self.responder!r} sent no reply within {self.timeout_s} s; "
            "check that its worker runs and how long its queue is, or give the request a longer timeout"
        )


class HandlerTimedOut(Retryable):
    def __init__(self, subscription: str, timeout_s: float) -> None:
        super().__init__(subscription, timeout_s)
        self.subscription = subscription
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"{self.subscription} exceeded its time limit of {self.timeout_s} s; give the calls it makes a shorter "
            "timeout, or raise the subscription's timeout"
        )


class StreamTimeout(Retryable):
    def __init__(self, stream_id: str, timeout_s: float, last_number: int) -> None:
        super().__init__(stream_id, timeout_s, last_number)
        self.stream_id = stream_id
        self.timeout_s = timeout_s
        self.last_number = last_number

    def __str__(self) -> str:
        return (
            f"stream {quote(self.stream_id)}: no further chunk arrived within {self.timeout_s:g} s; "
            f"check that a worker runs, and continue reading with after={self.last_number}"
        )


class StreamSuperseded(Retryable):
    def __init__(self, answer_id: str, attempt: int) -> None:
        super().__init__(answer_id, attempt)
        self.answer_id = answer_id
        self.attempt = attempt

    def __str__(self) -> str:
        return (
            f"response {self.answer_id}: a newer attempt writes it, so attempt {self.attempt} was stopped; "
            "read the response of the newer attempt"
        )


class StreamBusy(Retryable):
    def __init__(self, stream_id: str, answer_id: str) -> None:
        super().__init__(stream_id, answer_id)
        self.stream_id = stream_id
        self.answer_id = answer_id

    def __str__(self) -> str:
        return (
            f"stream {quote(self.stream_id)}: response {self.answer_id} is still being written, and on_busy is "
            "'reject'; try again when it has ended"
        )


class ProviderUnavailable(Retryable):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} did not answer: {self.reason}; try again later, or check the provider's settings"


def service_throttled(service: str, after_s: float) -> RetryLater:
    """Build the error for an answer with Retry-After. Raise it from the error that carried the header."""
    return RetryLater(f"{service} asked to wait (Retry-After)", after_s, code="service_throttled")


def broker_not_started(directory: str, reason: str, log: str = "") -> Retryable:
    last_lines = f"\nthe last lines of its log:\n{log}" if log else ""
    return Retryable(
        f"the embedded broker in {directory} did not start: {reason}; fix the cause and start it "
        f"again, or set PETIOLE_BROKER_URL to a Redis or Valkey server{last_lines}",
        code="broker_not_started",
    )


def broker_not_stopped(directory: str, reason: str) -> Retryable:
    return Retryable(
        f"the embedded broker in {directory} did not stop: {reason}; "
        "try again, or end the process whose id is in its valkey.pid",
        code="broker_not_stopped",
    )


def requester_stopped(request_type: str) -> Retryable:
    return Retryable(
        f"request {quote(request_type)}: this process stopped while it waited for the reply; request again from "
        "another process",
        code="requester_stopped",
    )


def tool_timeout(tool: str, timeout_s: float) -> Retryable:
    return Retryable(
        f"{tool} exceeded its timeout of {timeout_s:g} s; request less work, or raise its timeout", code="tool_timeout"
    )


def worker_not_started(node: str, reason: str, log: str = "") -> Retryable:
    last_lines = f"; the last lines of its log:\n{log}" if log else ""
    return Retryable(f"the worker {node} {reason}{last_lines}", code="worker_not_started")


def _problem(operation: str, answer: str) -> str:
    return f"failed while {operation}: {quote(answer)}" if answer else f"could not be reached while {operation}"
