"""Tracing: where the stages of an event open spans of OpenTelemetry. The spans themselves are in spans.py.

    event.<type>            producer span: from the validation of an event to its commit
    event.<type>            consumer span: one attempt at a delivery (tasks/settlement/delivery_span.py)
    invoke_agent <agent>    the run of a handler; other operations, such as `chat`, are opened by agents

A process without a tracer provider does not import OpenTelemetry: then each function here costs one look into
`sys.modules`. The process's own code sets the provider, or workers/observability/tracing.py.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from celery import signals

from petiole.events.event import Event
from petiole.events.ids import continue_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def is_tracing() -> bool:
    """Return whether this process has a tracer provider."""
    api: Any = sys.modules.get("opentelemetry.trace")
    return api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


def start_publishing(event: Event) -> tuple[str, Span | None]:
    """Start the producer span of an event. A span that is never ended leaves no trace.

    Returns:
        The event's own trace context, and the span; None without a tracer provider.
    """
    if not is_tracing():
        return continue_traceparent(event.traceparent, event.event_id), None
    from petiole.tasks.instrumentation import spans

    return spans.open_publishing(event)


def end_publishing(span: Span | None, error: Exception | None = None) -> None:
    """End a producer span, and mark it if the event could not be published."""
    if span is not None and span.is_recording():
        if error is not None:
            from petiole.tasks.instrumentation import spans

            spans.mark_failed(span, error)
        span.end()


def trace_operation(
    operation: Literal["invoke_agent", "chat", "execute_tool"],
    subject: str,
    attributes: dict[str, str],
) -> AbstractContextManager[Span | None]:
    """Open the span of an operation of an agent, by the semantic conventions for generative AI.

    Args:
        operation: `gen_ai.operation.name`.
        subject: the agent, the model or the tool; the second word of the span's name.
        attributes: attributes of the span.
    """
    if not is_tracing():
        return nullcontext()
    from petiole.tasks.instrumentation import spans

    return spans.open_operation(operation, subject, attributes)


@signals.before_task_publish.connect
def add_trace_context(headers: dict[str, Any] | None = None, **_: object) -> None:
    """Put the current trace context into the headers of a Celery task, so that a user's own task joins the trace."""
    if headers is not None and is_tracing():
        from petiole.tasks.instrumentation import spans

        spans.add_context(headers)
