"""The error channel: errors are published as events, and their severity has effects.

    report(error)                     publish an ErrorEvent at once, inside a handler or outside
    @agent.on_error("error.*")        subscribes to them; no other subscription gets them, not even `*`
    apply_severity(bus, event)        called by the supervisor (workers/agents/supervisor.py):

        warning     the error is logged and counted
        error       in addition the flow is aborted for the failing agent: its deliveries end as `aborted`
        critical    in addition the system shuts down: publishers get SystemStopping, beat publishes nothing, workers
                    finish running deliveries and exit, queued messages stay, `system.stopped` is the last event

A handler that reports an error with severity `error` aborts the flow before `report` returns. No waiting delivery of
this process starts meanwhile; another process may start, within a second, a delivery that it has just fetched
(`begin`, tasks/settlement/settlement.py). Deferred and retried deliveries end as well, replayed ones do not. An error
reported by a handler of the error channel is only logged, to avoid a loop.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from petiole.events.arguments import checks_arguments, instance_of
from petiole.events.catalog.error import ErrorEvent
from petiole.events.content import Value
from petiole.events.errors import Severity, error_type_of, invalid_option
from petiole.events.event import Category, Event, EventFields
from petiole.events.ids import AgentName
from petiole.events.texts import safe_text
from petiole.events.topics import Topic
from petiole.events.validation import invalid_event
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import CurrentDelivery, current_context, current_publisher
from petiole.tasks.instrumentation import ErrorReported, FlowAborted, OperationFailed
from petiole.tasks.operations.lifecycle_events import publish_lifecycle_events
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import default_bus
from petiole.tasks.settlement.settlement import record_abort

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

REPORTED_EVENT_TYPE = "error.reported"

log = logging.getLogger(__name__)


@checks_arguments(
    error=instance_of(BaseException) | str, event_type=Topic, agent=AgentName | None, event=instance_of(Event) | None
)
def report(
    error: BaseException | str,
    severity: Severity | str = Severity.WARNING,
    *,
    event_type: str = REPORTED_EVENT_TYPE,
    agent: str | None = None,
    event: Event | None = None,
    **parameters: Value,
) -> Publication | None:
    """Publish an error on the error channel at once, whether the handler succeeds or not.

    `agent` is the failing agent and `event` the event it handled; inside a handler both are known. Returns None in a
    handler of the error channel itself, where nothing is published.

    Raises: UsageError (invalid_option) for an invalid argument; as `publish`.
    """
    severity = _parse_severity(severity)
    context = current_context()
    if context is not None and context.event.category is Category.ERROR:
        failed = OperationFailed(operation="error.report_failed", subject=f"{severity}: {safe_text(error)}")
        context.bus.instrumentation.emit(failed)
        return None
    agent = agent or (context.subscription.agent if context else None)
    parameters = parameters | ({"agent": agent} if agent else {})
    safe = {name: safe_text(value) if isinstance(value, str) else value for name, value in parameters.items()}
    name = "Error" if isinstance(error, str) else error_type_of(error)
    content = {"error_type": name, "message": safe_text(error) or name, "severity": severity, "parameters": safe}
    handled_event = event or (context.event if context else None)
    fields: EventFields = {"event_type": event_type, "content": content}
    error_event = handled_event.caused(ErrorEvent, **fields) if handled_event else _build_event(fields)
    if context is None:
        return commit(bus := default_bus(), [validate(bus, error_event, current_publisher(bus))])[0]
    return _report_in_handler(context, error_event)


def apply_severity(bus: BusRuntime, event: ErrorEvent) -> None:
    """Apply the effects of an error's severity. Safe to repeat. Raises RedisError."""
    content = event.content
    bus.stores.counters.add(f"errors:{content.severity}")
    record = ErrorReported(
        severity=str(content.severity), error_type=content.error_type, error=content.message, event_id=event.event_id
    )
    bus.instrumentation.emit(record)
    match content.severity:
        case Severity.ERROR:
            abort(bus, event)
        case Severity.CRITICAL:
            # An error from before this lifecycle has already shut the system down.
            if event.timestamp.timestamp() >= bus.stores.cluster_membership.read().started_at:
                shut_down(bus, by=content.error_type)


def abort(bus: BusRuntime, event: ErrorEvent) -> str | None:
    """Abort the error's flow for the failing agent; returns the agent, or None if none is named. Safe to repeat."""
    agent = event.content.parameters.get("agent")
    if not isinstance(agent, str):
        return None
    is_new = bus.stores.cluster_membership.abort(
        agent, event.correlation_id, timedelta(seconds=bus.settings.inbox_retention_s)
    )
    record_abort(bus)
    if is_new:
        bus.instrumentation.emit(FlowAborted(agent=agent, correlation_id=event.correlation_id))
    return agent


def shut_down(bus: BusRuntime, *, by: str) -> None:
    """Shut the system down in order; `by` names the cause. Safe to repeat and to call concurrently."""
    cluster = bus.stores.cluster_membership.close(by)
    if cluster.is_ending:
        log.critical("system.shut_down", extra={"by": by})
    publish_lifecycle_events(bus, cluster)


def _report_in_handler(context: CurrentDelivery, event: ErrorEvent) -> Publication:
    if context.subscription.shadow:
        return buffer(context, event)
    prepared = context.prepare_event(event)
    publication = commit(context.bus, [validate(context.bus, prepared, context.publisher)])[0]
    if prepared.content.severity is Severity.ERROR:
        abort(context.bus, prepared)
    return publication


def _build_event(fields: EventFields) -> ErrorEvent:
    try:
        return ErrorEvent.model_validate(fields)
    except ValidationError as error:
        raise invalid_event(fields["event_type"], error, ErrorEvent) from error


def _parse_severity(severity: object) -> Severity:
    if isinstance(severity, str) and severity in list(Severity):
        return Severity(severity)
    raise invalid_option("report.severity", severity, f"give one of {', '.join(Severity)}")
