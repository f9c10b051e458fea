"""Discard dead letters, after publishing an audit event for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from petiole.events.arguments import checks_arguments
from petiole.events.catalog.dead_letters import DeadLetterDiscardedEvent, DiscardedLetter
from petiole.events.content import Text
from petiole.tasks.dead_letters.selection import QUERY, DeadLetterQuery, find_dead_letters
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.audit import publish_audit_events
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.publication import batched
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import DEAD_LETTER_STATES, DeadLetterRecord

DISCARD_BATCH_SIZE = 100
"""Dead letters deleted in one step."""

_ERROR_LENGTH = 500


@checks_arguments(letters=QUERY, operator=Text | None)
def discard(
    letters: DeadLetterQuery,
    *,
    operator: str | None = None,
    on_discarded: Callable[[int], object] = lambda _: None,
    bus: BusRuntime | None = None,
) -> int:
    """Delete dead letters; returns how many.

    Letters that are being replayed stay unless they are selected by id or by state. Their replay continues, and creates
    them again if it fails. `on_discarded` is called with the size of each batch.

    Raises: UsageError (unknown_dead_letter), BrokerUnavailable.
    """
    bus = current_bus(bus)
    operator, removed = operator or current_operator(), 0
    ids = [record.letter.id for record in find_dead_letters(exclude_replaying(letters), bus=bus)]
    for batch in batched(ids, DISCARD_BATCH_SIZE):
        with bus.state_store_access("discarding dead letters"):
            records = list(bus.stores.dead_letters.read(batch))
            publish_audit_events(bus, [_build_discarded_event(record, operator) for record in records])
            ended = [(record.letter.id, record.state, None) for record in records]
            removed += sum(bus.stores.dead_letters.remove(ended))
        on_discarded(len(batch))
    return removed


def exclude_replaying(letters: DeadLetterQuery) -> DeadLetterQuery:
    """Exclude letters that are being replayed, unless ids or states are selected."""
    is_by_state = letters.states != DeadLetterQuery().states
    if letters.ids or is_by_state:
        return letters
    return replace(
        letters, states=tuple(state for state in DEAD_LETTER_STATES if state in letters.states and state != "replaying")
    )


def _build_discarded_event(record: DeadLetterRecord, operator: str) -> DeadLetterDiscardedEvent:
    letter = record.letter
    content = DiscardedLetter(
        letter_id=letter.id,
        operator=operator,
        subscription=letter.subscription,
        cause=letter.cause,
        state=record.state,
        error=f"{letter.error_type}: {letter.error}"[:_ERROR_LENGTH],
    )
    return DeadLetterDiscardedEvent(content=content)
