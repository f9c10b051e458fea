"""Spans: what a trace tells of an event, by OpenTelemetry's semantic conventions for messaging and generative AI.

Loaded only in a process that has a tracer provider (tracing.py). An event carries the context of its producer span in
`traceparent`, so no header of a broker is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import lru_cache

from celery.exceptions import Reject, Retry
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from petiole.events.errors import RetryLater, error_type_of
from petiole.events.event import Event
from petiole.events.ids import span_id_of
from petiole.events.texts import error_text, traceback_text

MESSAGING_SYSTEM = "petiole"


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> Tracer:
    return provider.get_tracer("petiole")


def tracer() -> Tracer:
    """Return the tracer of this process."""
    return _tracer_of(trace.get_tracer_provider())


def open_publishing(event: Event) -> tuple[str, Span | None]:
    """Start the producer span of an event: below the current span, else below what the event's context names."""
    is_below_current = trace.get_current_span().get_span_context().is_valid
    context = None if is_below_current else _parent_context(event)
    attributes = describe_event(event) | {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
    span = tracer().start_span(name_span(event), context, SpanKind.PRODUCER, attributes)
    own = span.get_span_context()
    if not own.is_valid:  # the SDK is switched off
        return event.traceparent, None
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}", span


def _parent_context(event: Event) -> Context:
    """Return the context that an event was given. The default of a new event names no span: it starts a trace."""
    if event.traceparent[36:52] == span_id_of(event.event_id):
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(read_context(event)), Context())


def read_context(event: Event) -> SpanContext:
    """Read the context of the producer span of an event."""
    _, trace_id, span_id, flags = event.traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def name_span(event: Event) -> str:
    """Return the name of the spans of an event."""
    return f"event.{event.event_type}"


def describe_event(event: Event) -> dict[str, AttributeValue]:
    """Return the attributes of the spans of an event."""
    return {
        "messaging.system": MESSAGING_SYSTEM,
        "messaging.message.id": event.event_id,
        "messaging.message.conversation_id": event.correlation_id,
        "gen_ai.conversation.id": event.stream_id,
        "event.id": event.event_id,
        "event.type": event.event_type,
        "stream.id": event.stream_id,
    }


@contextmanager
def open_operation(operation: str, subject: str, attributes: Mapping[str, AttributeValue]) -> Iterator[Span]:
    """Open the span of an operation of an agent."""
    kind = SpanKind.CLIENT if operation == "chat" else SpanKind.INTERNAL
    with tracer().start_as_current_span(
        f"{operation} {subject}",
        kind=kind,
        attributes={"gen_ai.operation.name": operation, **attributes},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except (RetryLater, Reject, Retry):
            raise
        except BaseException as error:
            mark_failed(span, error)
            raise


def mark_failed(span: Span, error: BaseException) -> None:
    """Mark a span with an error, in words that any exporter can send."""
    kind, message = error_type_of(error), error_text(error)
    span.set_status(StatusCode.ERROR, message)
    span.set_attribute("error.type", kind)
    details = {
        "exception.type": kind,
        "exception.message": message,
        "exception.stacktrace": traceback_text(error),
    }
    span.add_event("exception", details)


def add_context(headers: MutableMapping[str, str]) -> None:
    """Write the current trace context into headers that have none."""
    if "traceparent" not in headers:
        propagate.inject(headers)
