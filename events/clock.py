"""The clock of events' timestamps: this machine's, corrected by what the process knows of the broker's clock.

Timestamps of several machines are compared, for example to expire deliveries. A process that has not asked its broker
yet uses its own clock. Smaller differences than MAX_DIFFERENCE_S are left alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MAX_DIFFERENCE_S = 1.0

_corrections = [timedelta(0)]


def correct(ahead_s: float) -> None:
    """Set by how much the broker's clock is ahead of this machine's. Of several brokers, the last call decides."""
    _corrections[:] = [timedelta(seconds=ahead_s if abs(ahead_s) > MAX_DIFFERENCE_S else 0)]


def now() -> datetime:
    """Return the time for the timestamp of an event."""
    return datetime.now(UTC) + _corrections[0]
