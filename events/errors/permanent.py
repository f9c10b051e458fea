"""Permanent: what fails again however often it is tried."""

from __future__ import annotations

from petiole.events.errors.base import Permanent, shown


class HopLimitReached(Permanent):
    def __init__(self, topic: str, hops: int, limit: int) -> None:
        super().__init__(topic, hops, limit)
        self.topic = topic
        self.hops = hops
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.topic}: {self.hops} events caused one another in a row, {self.limit} are allowed; look for agents "
            "that answer each other in a circle, or raise PETIOLE_MAX_HOPS"
        )


class HandlerReturnedNoEvent(Permanent):
    def __init__(self, subscription: str, returned: str) -> None:
        super().__init__(subscription, returned)
        self.subscription = subscription
        self.returned = returned

    def __str__(self) -> str:
        return f"{self.subscription} returned a {self.returned}; return nothing, an event, or several events"


class WorkersDied(Permanent):
    def __init__(self, subscription: str, deaths: int) -> None:
        super().__init__(subscription, deaths)
        self.subscription = subscription
        self.deaths = deaths

    def __str__(self) -> str:
        return (
            f"{self.deaths} workers died while {self.subscription} handled this event; look for what ends a process "
            "there (memory, a native library), then replay it: petiole dead-letters replay"
        )


class EventExpired(Permanent):
    def __init__(self, event_type: str, expired_at: str) -> None:
        super().__init__(event_type, expired_at)
        self.event_type = event_type
        self.expired_at = expired_at

    def __str__(self) -> str:
        return f"{self.event_type} was to be handled before {self.expired_at}; replay it if it still matters"


class ResponderNotFound(Permanent):
    def __init__(self, request_type: str, responder: str) -> None:
        super().__init__(request_type, responder)
        self.request_type = request_type
        self.responder = responder

    def __str__(self) -> str:
        return (
            f"request {shown(self.request_type)}: there is no agent {shown(self.responder)}; start its worker once, "
            "or mend the name (see: petiole agents)"
        )


class HandlerNotFound(Permanent):
    def __init__(self, request_type: str, responder: str) -> None:
        super().__init__(request_type, responder)
        self.request_type = request_type
        self.responder = responder

    def __str__(self) -> str:
        return (
            f"request {shown(self.request_type)}: {self.responder!r} answers none of that type; "
            f"decorate a function of it with @agent.answers({shown(self.request_type)}), and start its worker again"
        )


class GatheringKeyMissing(Permanent):
    def __init__(self, subscription: str, topic: str, path: str) -> None:
        super().__init__(subscription, topic, path)
        self.subscription = subscription
        self.topic = topic
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.subscription} gathers by {self.path!r}, which {self.topic} has not; gather by a field of all parts"
        )


class EffectUnfinished(Permanent):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} was begun for the key {self.key!r} at {self.since} and not done, so it may have "
            "acted or not: look, and say petiole.tasks.patterns.idempotency.settle(function, key, result) if it has, "
            "forget(function, key) if not; or decorate it with on_unfinished='repeat' where acting twice does no harm"
        )


class PayloadUnreadable(Permanent):
    """The content of an event that travelled by reference cannot be had. `reference` is the event's dataref."""

    def __init__(self, topic: str, reference: str) -> None:
        super().__init__(topic, reference)
        self.topic = topic
        self.reference = reference

    def __str__(self) -> str:
        return f"{self.topic}: its content {self.reference} cannot be read; publish the event again"


class PayloadMissing(PayloadUnreadable):
    def __str__(self) -> str:
        return (
            f"{self.topic}: its content {self.reference} is not in the state store any more; publish the event again, "
            "and raise PETIOLE_HISTORY_RETENTION_S where deliveries wait longer than 7 days"
        )


class PayloadAltered(PayloadUnreadable):
    def __str__(self) -> str:
        return (
            f"{self.topic}: what the state store has as {self.reference} is not what was stored there; publish the "
            "event again, and find out who else writes to that store"
        )


class UndecodableMessage(Permanent):
    def __init__(self, queue: str, size_bytes: int) -> None:
        super().__init__(queue, size_bytes)
        self.queue = queue
        self.size_bytes = size_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes} bytes in the queue {shown(self.queue)} are no message; look at them, and at who can "
            "write to the broker"
        )


class ProviderRefused(Permanent):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} refused: {self.reason}; mend the request or the provider's settings"


class ApprovalMismatch(Permanent):
    def __init__(self, approval_id: str, reason: str) -> None:
        super().__init__(approval_id, reason)
        self.approval_id = approval_id
        self.reason = reason

    def __str__(self) -> str:
        return f"nothing is run for the approval {self.approval_id}: {self.reason}; look who published this event"


class ApprovalDenied(Permanent):
    def __init__(self, tool: str, by: str, reason: str) -> None:
        super().__init__(tool, by, reason)
        self.tool = tool
        self.by = by
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool} was not run: {self.by} denied it{f': {self.reason}' if self.reason else ''}"


class ApprovalExpired(Permanent):
    def __init__(self, tool: str) -> None:
        super().__init__(tool)
        self.tool = tool

    def __str__(self) -> str:
        return f"{self.tool} was not run: nobody granted it in time; ask again when somebody is there"


class AnswerCut(Permanent):
    def __init__(self, stream_id: str, number: int, oldest: int) -> None:
        super().__init__(stream_id, number, oldest)
        self.stream_id = stream_id
        self.number = number
        self.oldest = oldest

    def __str__(self) -> str:
        return (
            f"of the answers of stream {shown(self.stream_id)}, piece {self.number} is not kept any more, the oldest "
            f"is {self.oldest}; read the whole answer in its llm.response.generated, or raise "
            "PETIOLE_MAX_RESPONSE_STREAM_CHUNKS"
        )


class ToolFailed(Permanent):
    def __init__(self, tool: str, reason: str) -> None:
        super().__init__(tool, reason)
        self.tool = tool
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool} failed: {self.reason}"
