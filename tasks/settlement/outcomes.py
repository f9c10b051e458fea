"""Outcomes: how a delivery can end."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one attempt at a delivery."""

    HANDLED = "handled"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    ABORTED = "aborted"
    LEASE_LOST = "lease_lost"
    DEAD_LETTERED = "dead_lettered"
