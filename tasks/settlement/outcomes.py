"""The outcomes of an attempt that does not raise."""

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
