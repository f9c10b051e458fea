"""The consumer span of a delivery attempt: its outcome, its error, and when the next attempt is due.

Loaded only in a process that has a tracer provider (tasks/instrumentation/tracing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from celery.exceptions import Reject, Retry
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from petiole.events.errors import RetryLater
from petiole.events.event import Event
from petiole.events.texts import error_text
from petiole.tasks.instrumentation.spans import describe_event, mark_failed, name_span, read_context, tracer
from petiole.tasks.settlement.outcomes import DeadLettered


@contextmanager
def open_delivery_span(event: Event, attributes: Mapping[str, AttributeValue], *, is_linked: bool) -> Iterator[Span]:
    """Open a consumer span: below the producer span, or with a link to it at the head of a trace of its own."""
    producer = read_context(event)
    context = Context() if is_linked else trace.set_span_in_context(NonRecordingSpan(producer), Context())
    described = describe_event(event) | {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    with tracer().start_as_current_span(
        name_span(event),
        context,
        SpanKind.CONSUMER,
        described | dict(attributes),
        [Link(producer)] if is_linked else (),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Retry as retry:
            _add_retry(span, retry)
            raise
        except DeadLettered as ended:
            mark_failed(span, ended.error)
            span.add_event("delivery.dead_lettered")
            raise
        except Reject as rejected:
            span.add_event("delivery.requeued", {"reason": error_text(rejected)})
            raise
        except BaseException as error:
            mark_failed(span, error)
            raise


def _add_retry(span: Span, retry: Retry) -> None:
    """Tell when the next attempt is due. A deferred delivery has not failed."""
    due = retry.when.isoformat() if isinstance(retry.when, datetime) else str(retry.when)
    if retry.exc is None or isinstance(retry.exc, RetryLater):
        span.add_event("delivery.deferred", {"due": due})
    else:
        mark_failed(span, retry.exc)
        span.add_event("delivery.retrying", {"due": due})
