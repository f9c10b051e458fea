"""Listen: watch events as they are published, in a script or a service that is no agent.

    for event in listen("order.*"):
        print(event.event_type, event.content)

A listener reads the history. It has no queue, so it costs publishers nothing, acknowledges nothing, and does not see
what was published while it did not run. What must be handled once, and tried again, is an agent's:
docs/guides/add-an-agent.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

from petiole.events.errors import UsageError
from petiole.events.event import Event
from petiole.events.registry import UNREADABLE_HERE
from petiole.events.subscription_checks import check_known
from petiole.events.topics import TopicTrie
from petiole.tasks.handling.current import current_bus
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import HISTORY_START, History, RecordedEvent, read_kept_documents

_BLOCK_MS = 1_000
_ALL_PATTERNS = ("*", "error.*")


def listen(
    pattern: str | None = None,
    *,
    from_start: bool = False,
    timeout: float | timedelta | None = None,
    bus: BusRuntime | None = None,
) -> Iterator[Event]:
    """Yield the events that match a pattern, as they are published after this call.

    Args:
        pattern: a topic, or `*` for one or more words; without it all events, errors included.
        from_start: begin with the oldest event of the history.
        timeout: end after this time, in seconds; by default it never ends.
        bus: the bus; the current one by default.

    Returns:
        The events, except for those whose content has expired. One of a type that is not registered here is an Event
        whose content has its fields in `model_extra`.

    Raises:
        UsageError: invalid_pattern, also for a pattern that matches no known type. StateStoreUnavailable while reading.
    """
    bus = current_bus(bus)
    bus.require_broker()
    if pattern is not None:
        check_known(pattern, bus.event_registry)
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    deadline = None if seconds is None else time.monotonic() + seconds
    with bus.state_store_access("listening to events"):
        # Here, so that an event that is published before the first one is asked for is seen.
        start = HISTORY_START if from_start else bus.stores.history.last_entry_id()
    return _events(bus, pattern, start, deadline)


def follow_history(
    history: History, pattern: str | None, entry_id: str, deadline: float | None
) -> Iterator[RecordedEvent]:
    """Yield the events that match and are recorded after an entry, until a deadline of the monotonic clock."""
    trie: TopicTrie[bool] = TopicTrie()
    for each in (pattern,) if pattern else _ALL_PATTERNS:
        trie.add(each, listener=True)
    while True:
        left_ms = _BLOCK_MS if deadline is None else min(_BLOCK_MS, int((deadline - time.monotonic()) * 1_000))
        events = history.read_after(entry_id, block_ms=left_ms) if left_ms > 0 else history.read_after(entry_id)
        for recorded in events:
            entry_id = recorded.entry_id
            if trie.match(recorded.topic):
                yield recorded
        if left_ms <= 0 and not events:
            return


def _events(bus: BusRuntime, pattern: str | None, start: str, deadline: float | None) -> Iterator[Event]:
    with bus.state_store_access("listening to events"):
        for document in read_kept_documents(follow_history(bus.stores.history, pattern, start, deadline)):
            yield _read(bus, document)


def _read(bus: BusRuntime, document: Mapping[str, object]) -> Event:
    try:
        return bus.event_registry.read(document)
    except UsageError as error:
        if error.code not in UNREADABLE_HERE:
            raise
        return bus.event_registry.read_unknown(document)
