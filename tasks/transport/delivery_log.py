"""The ledger: what a turn notes of deliveries, where the broker's server is the state store, too.

A turn asks the store of each message that comes for the first time whether anything speaks against running it, and
notes that it was taken; an ack that names its delivery notes that it was handled. So a delivery whose handler says
nothing costs no round trip of its own. What is noted is the stores' (tasks/stores/attempts.py, inbox.py); what follows
from it is in tasks/settlement/deduplication.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """Where it is noted: how the keys of inbox marks, runs and aborted flows begin; and which worker this is."""

    inbox: str
    attempts: str
    aborted: str
    age_ms: int
    worker: str

    def script_arguments(self, consumer: str) -> tuple[str | int, ...]:
        """Word the ledger for a turn, with the run that is noted of each message that it admits."""
        run = {"at": datetime.now(UTC).isoformat(), "worker": self.worker, "consumer": consumer, "is_fetched": True}
        return (self.inbox, self.attempts, self.aborted, self.age_ms, json.dumps(run))
