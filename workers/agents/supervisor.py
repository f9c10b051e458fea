"""Supervisor: hears every error, and does what its severity asks for."""

from __future__ import annotations

from petiole.events.catalog.error import ErrorEvent
from petiole.tasks import Agent, Context
from petiole.tasks.operations.error_channel import apply_severity

agent = Agent("supervisor")


@agent.on_error("error.*")
def handle_error_event(event: ErrorEvent, context: Context) -> None:
    """Log and count an error; abort the failing agent's work, or shut the system down, where it is that bad."""
    apply_severity(context.bus, event)
