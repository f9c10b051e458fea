"""The error channel: what went wrong is an event of its own kind, and its severity acts.

    report(error)                     inside a handler or out: an ErrorEvent, at once
    @agent.on_error("error.*")        hears them; nobody else does, `*` included
    act_on(bus, event)                what the supervisor does (workers/agents/supervisor.py):

        warning     it is logged and counted
        error       and the agent that failed does no more on that flow: what waits for it ends as `aborted`
        critical    and the system is shut down: publishers are refused with SystemStopping, beat is silent, and
                    workers finish what they have in hand and end; what is queued stays, `system.stopped` is last

Who reports an error inside a handler has its agent's work on the flow aborted before `report` returns: nothing that
waits in this process is begun meanwhile; another process may begin within a second what it has just taken
(admissions.py). A delivery that was put off or tried again ends so, too; one that is replayed does not. What
is reported while an error event is handled is logged and goes nowhere: it would never end.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from petiole.events.catalog.error import ErrorContent, ErrorEvent
from petiole.events.content import Value
from petiole.events.errors import Severity, UsageError, error_type_of
from petiole.events.event import Category, Event, EventFields
from petiole.tasks.handling.buffering import hold
from petiole.tasks.handling.current import CurrentDelivery, current_context
from petiole.tasks.instrumentation import ErrorReported, FlowAborted, OperationFailed
from petiole.tasks.operations.lifecycle_events import tell
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.validation import checked
from petiole.tasks.runtime import default_bus
from petiole.tasks.settlement import deduplication

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

REPORTED = "error.reported"

log = logging.getLogger(__name__)


def report(
    error: BaseException | str,
    severity: Severity | str = Severity.WARNING,
    *,
    event_type: str = REPORTED,
    agent: str | None = None,
    event: Event | None = None,
    **parameters: Value,
) -> Publication | None:
    """Say on the error channel what went wrong, at once, whether the handler succeeds or not.

    `agent` is whose work failed and `event` what it worked on; inside a handler both are known. None where nothing was
    published: in a handler of the error channel itself. Raises: UsageError for a severity that is none; as `publish`.
    """
    severity = _checked(severity)
    context = current_context()
    if context is not None and context.event.category is Category.ERROR:
        failed = OperationFailed(operation="error.report_failed", subject=f"{severity}: {error}")
        context.bus.instrumentation.emit(failed)
        return None
    agent = agent or (context.subscription.agent if context else None)
    said: dict[str, Value] = dict(parameters) | ({"agent": agent} if agent else {})
    name = "Error" if isinstance(error, str) else error_type_of(error)
    content = ErrorContent(error_type=name, message=str(error) or name, severity=severity, parameters=said)
    about = event or (context.event if context else None)
    fields: EventFields = {"event_type": event_type, "content": content}
    told = about.caused(ErrorEvent, **fields) if about else ErrorEvent.model_validate(fields)
    if context is None:
        return dispatch(default_bus(), [checked(default_bus(), told)])[0]
    return _report_in_handler(context, told)


def act_on(bus: BusRuntime, event: ErrorEvent) -> None:
    """Do what an error's severity asks for; safe to repeat. Raises RedisError."""
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
            # One that waited while the system was at rest is of an earlier life: the shutdown was its answer.
            if event.timestamp.timestamp() >= bus.stores.lifecycle.began_at():
                shut_down(bus, by=content.error_type)


def abort(bus: BusRuntime, event: ErrorEvent) -> str | None:
    """End the failing agent's work on the error's flow; returns the agent, None where none is named. Safe to repeat."""
    agent = event.content.parameters.get("agent")
    if not isinstance(agent, str):
        return None
    is_new = bus.stores.lifecycle.abort(agent, event.correlation_id, timedelta(seconds=bus.settings.inbox_retention_s))
    bus.resource(deduplication.Known).void()
    if is_new:
        bus.instrumentation.emit(FlowAborted(agent=agent, correlation_id=event.correlation_id))
    return agent


def shut_down(bus: BusRuntime, *, by: str) -> None:
    """Have the system stop in order; safe to repeat, and once however many ask. `by` is whose word it is."""
    situation = bus.stores.lifecycle.close(by)
    if situation.is_ending:
        log.critical("system.shut_down", extra={"by": by})
    tell(bus)


def _report_in_handler(context: CurrentDelivery, told: ErrorEvent) -> Publication:
    if context.subscription.shadow:
        return hold(context, told)
    said = context.emitted(told)
    publication = dispatch(context.bus, [checked(context.bus, said)])[0]
    if said.content.severity is Severity.ERROR:
        abort(context.bus, said)
    return publication


def _checked(severity: Severity | str) -> Severity:
    if severity in list(Severity):
        return Severity(severity)
    raise UsageError(f"{severity!r} is no severity; give one of {', '.join(Severity)}")
