"""Page Live: the agents and their graph, the circuit breakers, and the events as they happen.

Events are shown without their contents. One task follows the history, however many browsers look, and hands each of
them at most MAX_PER_ROUND events per round; what is skipped is counted and said.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from petiole.events.errors import UsageError
from petiole.events.texts import error_text
from petiole.events.topics import TopicTrie, check_pattern
from petiole.tasks.resilience.circuit_breaker import force_state
from petiole.tasks.stores.cluster_lifecycle import AgentOverride
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.gateways.identities import IDENTITY
from petiole.workers.gateways.tokens import Identity
from petiole.workers.observability.flow_tree import publisher_name

if TYPE_CHECKING:
    from starlette.requests import Request

    from petiole.tasks.runtime import BusRuntime
    from petiole.workers.console.visit import Visit

ROUND_S: Final = 0.5
READ_PER_ROUND: Final = 500
MAX_PER_ROUND: Final = 25
SEND_TIMEOUT_S: Final = 20.0

_ALL_PATTERNS = ("*", "error.*")
_OVERRIDES: dict[str, AgentOverride | None] = {"pause": "paused", "stop": "stopped", "resume": None}

log = logging.getLogger(__name__)


def show_live(visit: Visit) -> Response:
    """Show the page."""
    pattern = visit.query("pattern")
    if pattern:
        check_pattern(pattern)
    recent = [_describe(each) for each in visit.bus.stores.history.light.read_last(30)[::-1]]
    board = visit.console.board.read()
    return visit.render("live.html", board=board, pattern=pattern, stream=visit.query("stream"), recent=recent)


def show_board(visit: Visit) -> Response:
    """Show the part of the page that is read again every two seconds."""
    return visit.render("_board.html", board=visit.console.board.read())


def set_circuit(visit: Visit) -> Response:
    """Open or close a circuit breaker by hand."""
    name, state = visit.form.get("name", ""), visit.form.get("state", "")
    if state not in {"open", "closed"}:
        raise UsageError(f"state {state!r}: give open or closed")
    seconds = visit.form.get("seconds", "")
    probe_after = timedelta(seconds=int(seconds)) if seconds.isdecimal() and len(seconds) < 7 and int(seconds) else None  # noqa: PLR2004 - up to 11 days
    with visit.acting(f"circuit.{state}", name):
        force_state(visit.bus, name, "open" if state == "open" else "closed", probe_after, by=visit.operator)
    return visit.go("/")


def set_agent(visit: Visit) -> Response:
    """Pause, stop or resume an agent in all workers."""
    name, action = visit.form.get("name", ""), visit.form.get("action", "")
    if action not in _OVERRIDES:
        raise UsageError(f"action {action!r}: give one of {', '.join(_OVERRIDES)}")
    with visit.acting(f"agent.{action}", name):
        if name not in {row.name for row in visit.console.board.read().agents}:
            raise UsageError(f"there is no agent {name!r}; the page Live lists them")
        visit.bus.stores.cluster_membership.set_override(name, _OVERRIDES[action])
    return visit.go("/")


class LiveEvents:
    """Follows the history for all browsers that look."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._round = asyncio.Event()
        self._events: list[RecordedEvent] = []
        self._recorded = 0
        self._state = ""
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None

    async def answer(self, request: Request) -> Response:
        """Answer with the events of a pattern and a stream, until the browser leaves."""
        from sse_starlette.sse import EventSourceResponse  # noqa: PLC0415 - an extra

        identity: Identity | None = request.scope.get(IDENTITY)
        if identity is None or not identity.may("viewer"):
            return Response("this needs the role viewer", 403, media_type="text/plain")
        pattern, stream = request.query_params.get("pattern", ""), request.query_params.get("stream", "")
        trie: TopicTrie[bool] = TopicTrie()
        try:
            for each in (check_pattern(pattern),) if pattern else _ALL_PATTERNS:
                trie.add(each, listener=True)
        except UsageError as error:
            return Response(error_text(error), 400, media_type="text/plain")
        return EventSourceResponse(self._follow(trie, stream), ping=15, send_timeout=SEND_TIMEOUT_S)

    async def close(self) -> None:
        """Stop following the history."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self, trie: TopicTrie[bool], stream: str) -> AsyncIterator[dict[str, str]]:
        self._watchers += 1
        if self._task is None or self._task.done():
            self._recorded, self._state = 0, ""
            self._task = asyncio.create_task(self._read_rounds())
        recorded, state = self._recorded, ""
        try:
            while True:
                if state != self._state:
                    state = self._state
                    yield {"event": "state", "data": state}
                await self._round.wait()
                found = [
                    each
                    for each in self._events
                    if trie.match(each.topic) and stream in {"", str(each.attributes["stream_id"])}
                ]
                # Also the events of rounds that a slow browser missed.
                skipped = self._recorded - recorded - len(self._events) if recorded else 0
                skipped, recorded = skipped + max(0, len(found) - MAX_PER_ROUND), self._recorded
                for each in found[-MAX_PER_ROUND:]:
                    yield {"event": "recorded", "id": each.entry_id, "data": json.dumps(_describe(each))}
                if skipped > 0:
                    yield {"event": "skipped", "data": str(skipped)}
                await asyncio.sleep(0)
        finally:
            self._watchers -= 1

    async def _read_rounds(self) -> None:
        """Read what was recorded, round by round, while somebody looks. A broker that is away is asked again."""
        entry_id = ""
        while self._watchers:
            began = time.monotonic()
            try:
                entry_id, self._recorded, self._events = await run_in_threadpool(self._read_round, entry_id)
                state = "Live."
            except RedisError as error:
                log.warning("console.history_unavailable", extra={"error": error_text(error)})
                self._events, state = [], "The broker does not answer; it is tried again."
            if self._events or state != self._state:
                self._state = state
                self._round.set()
                self._round = asyncio.Event()
            # A slow history is read less often: the console must not slow it further.
            await asyncio.sleep(ROUND_S + min(5.0, 4 * (time.monotonic() - began)))

    def _read_round(self, entry_id: str) -> tuple[str, int, list[RecordedEvent]]:
        """Return the last entry, how many events were ever recorded, and those after `entry_id` (empty: none)."""
        history = self._bus.stores.history.light
        events = history.read_after(entry_id, count=READ_PER_ROUND) if entry_id else []
        if not entry_id or len(events) == READ_PER_ROUND:  # more than anybody can read: go on at the end
            return history.last_entry_id(), history.count_recorded(), events
        return events[-1].entry_id if events else entry_id, self._recorded + len(events), events


def _describe(recorded: RecordedEvent) -> dict[str, Any]:
    attributes = recorded.attributes
    return {
        "at": recorded.recorded_at_ms,
        "topic": recorded.topic,
        "stream": str(attributes["stream_id"]),
        "flow": str(attributes["correlation_id"]),
        "publisher": publisher_name(attributes),
        "id": str(attributes["event_id"]),
    }
