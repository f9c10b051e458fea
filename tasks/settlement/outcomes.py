"""The outcomes of an attempt: one that does not raise, and the end of a delivery as a dead letter."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of one attempt."""

    HANDLED = "handled"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    ABORTED = "aborted"
    LEASE_LOST = "lease_lost"
    PARKED = "parked"


class DeadLettered(Exception):  # noqa: N818 - an outcome, as Celery's Retry and Reject
    """The delivery ended in an error, and its dead letter is stored."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
