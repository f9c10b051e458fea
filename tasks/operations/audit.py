"""Audit: the events that say what operators did, why, and what came of it. They are published as `operator`.

with record_action(bus, OperatorAction(operator="ada", role="admin", action="agent.pause", target="memory")):
    pause()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from petiole.events.catalog.operator import OperatorAction, OperatorActionEvent
from petiole.events.errors import PetioleError, QueueFull
from petiole.events.event import Event
from petiole.events.texts import safe_text
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.trust.policy import OPERATOR

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

_MAX_ERROR_LENGTH = 500


@contextmanager
def record_action(bus: BusRuntime, action: OperatorAction) -> Iterator[None]:
    """Publish that an operator did what the block does, or that it was refused; the refusal is raised again.

    Raises: UsageError (publish_forbidden) before the block if the policy does not allow the record; BrokerUnavailable.
    """
    bus.trust.require_permission(OperatorActionEvent(content=action), OPERATOR)
    try:
        yield
    except PetioleError as error:
        refusal = {"outcome": "refused", "error": safe_text(error, _MAX_ERROR_LENGTH)}
        publish_audit_events(bus, [OperatorActionEvent(content=action.model_copy(update=refusal))])
        raise
    publish_audit_events(bus, [OperatorActionEvent(content=action)])


def publish_audit_events(bus: BusRuntime, events: Sequence[Event]) -> None:
    """Publish audit events. Safe to repeat under the same ids. Raises BrokerUnavailable.

    A full queue does not stop the operator: its subscribers do not get the events, the history and the others do.
    """
    validated = [validate(bus, event, OPERATOR) for event in events]
    full: set[str] = set()
    is_published = not validated
    while not is_published:
        try:
            commit(bus, validated, skipped_queues=full)
            is_published = True
        except QueueFull as error:
            full.add(error.queue)
            bus.instrumentation.emit(OperationFailed(operation="audit.delivery_failed", exception=error))
