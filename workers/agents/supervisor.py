"""Supervisor: subscribes to all error events and reacts according to their severity."""

from __future__ import annotations

from petiole.events.catalog.error import ErrorEvent
from petiole.tasks import Agent, Context
from petiole.tasks.operations.error_channel import apply_severity

agent = Agent("supervisor")


@agent.on_error("error.*")
def handle_error_event(event: ErrorEvent, context: Context) -> None:
    """Log and count an error. By its severity, also abort the failing agent's work or shut the system down."""
    apply_severity(context.bus, event)
