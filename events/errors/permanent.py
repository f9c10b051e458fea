"""Permanent: what fails again however often it is tried."""

from __future__ import annotations

from petiole.events.errors.base import Permanent, quote


class DeliveryCrashed(Permanent):
    def __init__(self, subscription: str, deaths: int) -> None:
        super().__init__(subscription, deaths)
        self.subscription = subscription
        self.deaths = deaths

    def __str__(self) -> str:
        return (
            f"{self.deaths} workers died while {self.subscription} handled this event; look for what ends a process "
            "there (memory, a native library), then replay it: petiole dead-letters replay"
        )


class OperationOutcomeUnknown(Permanent):
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
    """The content of an event that travelled by reference cannot be had. `reference` is the event's dataref.

    `code` is payload_missing or payload_altered.
    """

    def __init__(self, topic: str, reference: str, *, code: str = "payload_missing") -> None:
        super().__init__(topic, reference, code=code)
        self.topic = topic
        self.reference = reference

    def __str__(self) -> str:
        if self.code == "payload_altered":
            return (
                f"{self.topic}: what the state store has as {self.reference} is not what was stored there; publish the "
                "event again, and find out who else writes to that store"
            )
        return (
            f"{self.topic}: its content {self.reference} is not in the state store any more; publish the event again, "
            "and raise PETIOLE_HISTORY_RETENTION_S where deliveries wait longer than 7 days"
        )


class ProviderRefused(Permanent):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} refused: {self.reason}; mend the request or the provider's settings"


class StreamTruncated(Permanent):
    def __init__(self, stream_id: str, number: int, oldest: int) -> None:
        super().__init__(stream_id, number, oldest)
        self.stream_id = stream_id
        self.number = number
        self.oldest = oldest

    def __str__(self) -> str:
        return (
            f"of the answers of stream {quote(self.stream_id)}, piece {self.number} is not kept any more, the oldest "
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


def hop_limit_reached(topic: str, hops: int, limit: int) -> Permanent:
    return Permanent(
        f"{topic}: {hops} events caused one another in a row, {limit} are allowed; look for agents "
        "that answer each other in a circle, or raise PETIOLE_MAX_HOPS",
        code="hop_limit_reached",
    )


def handler_returned_no_event(subscription: str, returned: str) -> Permanent:
    return Permanent(
        f"{subscription} returned a {returned}; return nothing, an event, or several events",
        code="handler_returned_no_event",
    )


def event_expired(event_type: str, expired_at: str) -> Permanent:
    return Permanent(
        f"{event_type} was to be handled before {expired_at}; replay it if it still matters", code="event_expired"
    )


def responder_not_found(request_type: str, responder: str) -> Permanent:
    return Permanent(
        f"request {quote(request_type)}: there is no agent {quote(responder)}; start its worker once, "
        "or mend the name (see: petiole agents)",
        code="responder_not_found",
    )


def handler_not_found(request_type: str, responder: str) -> Permanent:
    return Permanent(
        f"request {quote(request_type)}: {responder!r} answers none of that type; "
        f"decorate a function of it with @agent.answers({quote(request_type)}), and start its worker again",
        code="handler_not_found",
    )


def aggregation_key_missing(subscription: str, topic: str, path: str) -> Permanent:
    return Permanent(
        f"{subscription} gathers by {path!r}, which {topic} has not; gather by a field of all parts",
        code="aggregation_key_missing",
    )


def undecodable_message(queue: str, size_bytes: int) -> Permanent:
    return Permanent(
        f"{size_bytes} bytes in the queue {quote(queue)} are no message; look at them, and at who can "
        "write to the broker",
        code="undecodable_message",
    )


def approval_mismatch(approval_id: str, reason: str) -> Permanent:
    return Permanent(
        f"nothing is run for the approval {approval_id}: {reason}; look who published this event",
        code="approval_mismatch",
    )


def approval_denied(tool: str, by: str, reason: str) -> Permanent:
    return Permanent(f"{tool} was not run: {by} denied it{f': {reason}' if reason else ''}", code="approval_denied")


def approval_expired(tool: str) -> Permanent:
    return Permanent(
        f"{tool} was not run: nobody granted it in time; ask again when somebody is there", code="approval_expired"
    )
