"""Delivery log: what fetch.lua records of deliveries if the broker's server is also the state store.

For a message that is delivered for the first time, the fetch checks whether the delivery was handled, attempted or
aborted before, and if not, records the start of an attempt. An ack that names its delivery marks it as handled. So a
delivery whose handler publishes nothing needs no round trip of its own. The keys belong to tasks/stores/attempts.py and
inbox.py; tasks/settlement/deduplication.py uses the result of the check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """The key prefixes of inbox marks, attempts and aborted flows, their retention, and the name of this worker."""

    inbox: str
    attempts: str
    aborted: str
    age_ms: int
    worker: str

    def script_arguments(self, consumer: str) -> tuple[str | int, ...]:
        """Build the arguments of fetch.lua, with the attempt that it records for each checked message."""
        attempt = {"at": datetime.now(UTC).isoformat(), "worker": self.worker, "consumer": consumer, "is_fetched": True}
        return (self.inbox, self.attempts, self.aborted, self.age_ms, json.dumps(attempt))
