"""Cancel a flow: end all that runs or waits for it, in every process. Entered by `cancel_flow`.

    queued, deferred, delayed deliveries    end as `aborted` when they would start
    running handlers                        are interrupted within 0.3 s (tasks/handling/cancellation.py)
    requests without a reply                get a failure reply
    tool calls, pending approvals           fail once (workers/agents/tools.py, by the event `flow.cancelled`)

A delivery that another process has fetched less than a second ago may still start; it is interrupted like one that
runs. Events that were published stay in the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

from petiole.events import responses
from petiole.events.arguments import checks_arguments
from petiole.events.catalog.flow import FlowCancellation, FlowCancelledEvent
from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent
from petiole.events.content import Text
from petiole.events.errors import unknown_flow
from petiole.events.event import Event
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.settlement.settlement import record_abort

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime


@checks_arguments(correlation_id=Text, by=Text | None, reason=str)
def cancel_flow(
    correlation_id: str, *, by: str | None = None, reason: str = "", bus: BusRuntime | None = None
) -> Publication:
    """Cancel a flow, and publish `flow.cancelled` once. Safe to repeat; `was_repeated` tells so.

    `by` is the name of the person, by default user@host.

    Raises: UsageError (unknown_flow) if the history has no event of it; as `publish`.
    """
    bus = current_bus(bus)
    with bus.state_store_access(f"cancelling the flow {correlation_id}"):
        events = bus.event_registry.read_known(bus.stores.history.read_flow_documents(correlation_id))
        if not events:
            raise unknown_flow(correlation_id)
        bus.stores.cluster_membership.cancel(correlation_id, timedelta(seconds=bus.settings.inbox_retention_s))
    record_abort(bus)
    cancelled = events[0].caused(
        FlowCancelledEvent,
        event_id=str(uuid5(NAMESPACE_OID, repr(("flow.cancelled", correlation_id)))),
        content=FlowCancellation(by=by or current_operator(), reason=reason),
    )
    outgoing = [cancelled, *_build_replies(events)]
    return commit(bus, [validate(bus, event) for event in outgoing])[0]


def _build_replies(events: Sequence[Event]) -> list[ResponseFailureEvent]:
    """Build a failure reply for each request that has no reply."""
    known = {event.event_id for event in events}
    requests = [event for event in events if isinstance(event, RequestEvent)]
    unanswered = [request for request in requests if responses.response_id(request) not in known]
    return [responses.build_failure(request, "flow_cancelled", "its flow was cancelled") for request in unanswered]
