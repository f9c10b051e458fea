"""Permanent errors: every further attempt fails too."""

from __future__ import annotations

from petiole.events.errors.base import Permanent, quote


class DeliveryCrashed(Permanent):
    def __init__(self, subscription: str, deaths: int) -> None:
        super().__init__(subscription, deaths)
        self.subscription = subscription
        self.deaths = deaths

    def __str__(self) -> str:
        return (
            f"{self.deaths} worker processes died while {self.subscription} handled this event; check the handler's "
            "memory use and native libraries, then replay the dead letter: petiole dead-letters replay"
        )


class OperationOutcomeUnknown(Permanent):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} started for the key {self.key!r} at {self.since} and did not finish, so its effect is "
            "unknown; check, then call petiole.tasks.patterns.idempotency.mark_done(name, key, result) if it took "
            "effect, or forget_call(name, key) if not; use on_unfinished='repeat' if running it twice is harmless"
        )


class PayloadUnreadable(Permanent):
    """The content of an event that was published by reference cannot be read. `reference` is the event's dataref.

    `code` is payload_missing, payload_altered or payload_too_large.
    """

    def __init__(self, topic: str, reference: str, *, code: str = "payload_missing") -> None:
        super().__init__(topic, reference, code=code)
        self.topic = topic
        self.reference = reference

    def __str__(self) -> str:
        if self.code == "payload_altered":
            return (
                f"{self.topic}: the content {self.reference} in the state store was altered; publish the event again, "
                "and find the other program that writes to that store"
            )
        if self.code == "payload_too_large":
            return (
                f"{self.topic}: the content {self.reference} in the state store is larger than an event may be; raise "
                "PETIOLE_MAX_EVENT_BYTES if it was published with a higher limit"
            )
        return (
            f"{self.topic}: the content {self.reference} is missing from the state store; publish the event again, "
            "and raise PETIOLE_HISTORY_RETENTION_S if deliveries wait longer than 7 days"
        )


class ProviderRefused(Permanent):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} refused the request: {self.reason}; fix the request or the provider's settings"


class StreamTruncated(Permanent):
    def __init__(self, stream_id: str, number: int, oldest: int) -> None:
        super().__init__(stream_id, number, oldest)
        self.stream_id = stream_id
        self.number = number
        self.oldest = oldest

    def __str__(self) -> str:
        return (
            f"stream {quote(self.stream_id)}: chunk {self.number} has been deleted, the oldest chunk is {self.oldest}; "
            "read the complete response in its llm.response.generated event, or raise "
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
        f"{topic}: the event is {hops} hops from its origin, the limit is {limit}; find the agents that react to "
        "each other's events in a loop, or raise PETIOLE_MAX_HOPS",
        code="hop_limit_reached",
    )


def handler_returned_no_event(subscription: str, returned: str) -> Permanent:
    return Permanent(
        f"{subscription} returned a value of type {returned}; return None, an event, or a list of events",
        code="handler_returned_no_event",
    )


def event_expired(event_type: str, expired_at: str) -> Permanent:
    return Permanent(
        f"{event_type} expired at {expired_at} before it was handled; replay the dead letter if it still matters",
        code="event_expired",
    )


def responder_not_found(request_type: str, responder: str) -> Permanent:
    return Permanent(
        f"request {quote(request_type)}: no agent {quote(responder)} is registered; start its worker, "
        "or correct the name (see: petiole agents)",
        code="responder_not_found",
    )


def handler_not_found(request_type: str, responder: str) -> Permanent:
    return Permanent(
        f"request {quote(request_type)}: agent {responder!r} has no handler for that request type; "
        f"decorate one of its functions with @agent.answers({quote(request_type)}), and restart its worker",
        code="handler_not_found",
    )


def aggregation_key_missing(subscription: str, topic: str, path: str) -> Permanent:
    return Permanent(
        f"{subscription}: {topic} has no field {path!r} to gather by; choose a field that all gathered events have",
        code="aggregation_key_missing",
    )


def undecodable_message(queue: str, size_bytes: int) -> Permanent:
    return Permanent(
        f"an entry of {size_bytes} bytes in the queue {quote(queue)} cannot be decoded as a message; inspect the dead "
        "letter, and check who can write to the broker",
        code="undecodable_message",
    )


def approval_mismatch(approval_id: str, reason: str) -> Permanent:
    return Permanent(
        f"approval {approval_id} does not match, so the tool was not run: {reason}; check who published this event",
        code="approval_mismatch",
    )


def approval_denied(tool: str, by: str, reason: str) -> Permanent:
    return Permanent(
        f"{tool} was not run: {by} denied approval{f': {reason}' if reason else ''}", code="approval_denied"
    )


def approval_expired(tool: str) -> Permanent:
    return Permanent(
        f"{tool} was not run: its approval expired; request it again when somebody can decide", code="approval_expired"
    )
