"""Approvals: tool calls that a user must grant, and the decisions.

Promise: an approval is requested once and decided once, by any number of concurrent callers. A request is kept for
`pending_age`, a decision for `decided_age`, and it does not change.
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
_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """An approval. `request` is the requesting event as JSON."""

    id: str
    request: str
    expires_at: datetime
    state: ApprovalState
    by: str = ""
    reason: str = ""
    decided_at: datetime | None = None


class Approvals:
    """Approvals by id."""

    def __init__(self, client: Redis, keys: StateKeys, *, pending_age: timedelta, decided_age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._pending_age = pending_age
        self._decided_age = decided_age
        self._open = client.register_script(load_script("open_approval", _SCRIPTS))
        self._decide = client.register_script(load_script("decide_approval", _SCRIPTS))

    def open(self, approval_id: str, request: str, *, expires_at: datetime) -> None:
        """Store a requested approval. Safe to repeat: the first one stays."""
        self._open(
            keys=[self._keys.approval(approval_id), self._keys.approvals],
            args=[approval_id, request, int(expires_at.timestamp() * 1_000), _milliseconds(self._pending_age)],
        )

    def decide(
        self, approval_id: str, state: ApprovalState, *, by: str = "", reason: str = "", in_time: bool = True
    ) -> DecisionResult:
        """Decide a pending approval; with `in_time` only if it has not expired."""
        result: DecisionResult = self._decide(
            keys=[self._keys.approval(approval_id)],
            args=[state, by, reason, int(in_time), _milliseconds(self._decided_age)],
        )
        return result

    def get(self, approval_id: str) -> ApprovalRecord | None:
        """Read an approval; None if it does not exist."""
        fields: Any = self._client.hgetall(self._keys.approval(approval_id))
        return _build_record(approval_id, fields) if fields else None

    def iterate_newest(self) -> Iterator[ApprovalRecord]:
        """Read all approvals, newest first, a page at a time."""
        ids: Any = self._client.zrevrange(self._keys.approvals, 0, -1)
        for first in range(0, len(ids), _PAGE_SIZE):
            page = ids[first : first + _PAGE_SIZE]
            with self._client.pipeline(transaction=False) as pipeline:
                for approval_id in page:
                    pipeline.hgetall(self._keys.approval(approval_id))
                found = pipeline.execute()
            yield from (_build_record(*each) for each in zip(page, found, strict=True) if each[1])


def _build_record(approval_id: str, fields: Mapping[str, str]) -> ApprovalRecord:
    state: ApprovalState = next(name for name in APPROVAL_STATES if name == fields["state"])
    decided_ms = fields.get("decided_ms")
    return ApprovalRecord(
        approval_id,
        fields["request"],
        _from_milliseconds(fields["expires_ms"]),
        state,
        by=fields.get("by", ""),
        reason=fields.get("reason", ""),
        decided_at=_from_milliseconds(decided_ms) if decided_ms else None,
    )


def _from_milliseconds(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1_000, UTC)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
