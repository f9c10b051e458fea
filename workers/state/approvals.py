"""Approvals: tool calls that somebody has to grant, and what was decided of them.

Promise: an approval is asked for once, and decided once, whoever tries at the same time. Its decision stays, and is
kept for `age` after it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys

ApprovalState: TypeAlias = Literal["pending", "granted", "denied", "expired"]
DecisionResult: TypeAlias = Literal["decided", "late", "already_decided", "not_found"]

APPROVAL_STATES: tuple[ApprovalState, ...] = ("pending", "granted", "denied", "expired")


_SCRIPTS = "petiole.workers.state.scripts"


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """What is kept of an approval; `request` is the event that asked, as JSON, `fingerprint` of what it asks for."""

    id: str
    request: str
    fingerprint: str
    expires_at: datetime
    state: ApprovalState
    by: str = ""
    reason: str = ""
    decided_at: datetime | None = None


class Approvals:
    """Approvals by id."""

    def __init__(self, client: Redis, keys: StateKeys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._open = client.register_script(load_script("open_approval", _SCRIPTS))
        self._decide = client.register_script(load_script("decide_approval", _SCRIPTS))

    def open(self, approval_id: str, request: str, *, fingerprint: str, expires_at: datetime) -> None:
        """Keep that an approval is asked for. Safe to repeat: the first stays."""
        self._open(
            keys=[self._keys.approval(approval_id), self._keys.approvals],
            args=[approval_id, request, fingerprint, int(expires_at.timestamp() * 1_000), _milliseconds(self._age)],
        )

    def decide(
        self, approval_id: str, state: ApprovalState, *, by: str = "", reason: str = "", in_time: bool = True
    ) -> DecisionResult:
        """Decide an approval that is pending; `in_time` only where its time is not over."""
        said: DecisionResult = self._decide(
            keys=[self._keys.approval(approval_id)], args=[state, by, reason, int(in_time)]
        )
        return said

    def get(self, approval_id: str) -> ApprovalRecord | None:
        """Look an approval up."""
        found: Any = self._client.hgetall(self._keys.approval(approval_id))
        return _read(approval_id, found) if found else None

    def iterate_newest(self) -> Iterator[ApprovalRecord]:
        """Read all that are kept, the newest first."""
        ids: Any = self._client.zrevrange(self._keys.approvals, 0, -1)
        for approval_id in ids:
            if (kept := self.get(approval_id)) is not None:
                yield kept


def _read(approval_id: str, found: Mapping[str, str]) -> ApprovalRecord:
    state: ApprovalState = next(each for each in APPROVAL_STATES if each == found["state"])
    decided_ms = found.get("decided_ms")
    return ApprovalRecord(
        approval_id,
        found["request"],
        found["fingerprint"],
        _from_milliseconds(found["expires_ms"]),
        state,
        by=found.get("by", ""),
        reason=found.get("reason", ""),
        decided_at=_from_milliseconds(decided_ms) if decided_ms else None,
    )


def _from_milliseconds(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1_000, UTC)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
