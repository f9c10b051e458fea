"""Span relay: a process of a prefork pool passes each span that ends to the worker's main process, which exports it.

A batch that waits in a process of the pool would be lost if that process ends without notice: kill -9, `os._exit`, a
crash of an extension. What was passed on outlives it, in a socket of the system. While the main process reads nothing,
spans are dropped; it logs how many when it reads again.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import threading
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status
from opentelemetry.util.types import Attributes

MAX_SPAN_BYTES = 131_072
"""The largest span that a process passes on; the texts of a larger one are shortened."""

SHORTENED_LENGTH = 1_000
"""The characters that are left of each text of a span that is too large."""

SOCKET_BUFFER_BYTES = 4_194_304
"""How much may wait for the main process; the system may allow less."""

SEND_TIMEOUT_S = 0.05
"""How long a process waits for room, once; while there is none, it drops spans at once."""

log = logging.getLogger(__name__)


def build_provider() -> TracerProvider:
    """Make a provider that exports by OTLP over HTTP; the variables OTEL_… are the SDK's."""
    resource = Resource.create({"service.name": "petiole"} if "OTEL_SERVICE_NAME" not in os.environ else {})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SpanRelay(BatchSpanProcessor(OTLPSpanExporter()), resource))
    return provider


class SpanRelay(SpanProcessor):
    """Exports the spans of this process and of all processes that it forks."""

    def __init__(self, exporting: SpanProcessor, resource: Resource) -> None:
        self._exporting = exporting
        self._resource = resource
        self._pid = os.getpid()
        # Linux keeps ten datagrams by default, but packets of a connection up to the size of the buffer.
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self._receiver, self._sender = socket.socketpair(socket.AF_UNIX, kind)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self._dropped = 0
        threading.Thread(target=self._receive, name="petiole-spans", daemon=True).start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Let the processor that exports see the span, in its own process."""
        if os.getpid() == self._pid:
            self._exporting.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Export a span, or pass it on."""
        if os.getpid() == self._pid:
            self._exporting.on_end(span)
            return
        if span.context is None or not span.context.trace_flags.sampled:
            return
        message = _write_span(span, self._dropped)
        if len(message) > MAX_SPAN_BYTES:
            message = _write_span(span, self._dropped, SHORTENED_LENGTH)
        is_sent = len(message) <= MAX_SPAN_BYTES and self._send(message)
        self._dropped = 0 if is_sent else self._dropped + 1  # logged with the next span that finds room

    def _send(self, message: bytes) -> bool:
        self._sender.settimeout(0.0 if self._dropped else SEND_TIMEOUT_S)
        try:
            self._sender.send(message)
        except OSError:  # no room
            return False
        return True

    def shutdown(self) -> None:
        """Export what was passed on so far, and end."""
        if os.getpid() == self._pid:
            self.force_flush()
            self._exporting.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what was passed on so far. In a process of the pool nothing waits."""
        if os.getpid() != self._pid:
            return True
        while True:
            try:
                self._export(self._receiver.recv(MAX_SPAN_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return self._exporting.force_flush(timeout_millis)

    def _receive(self) -> None:
        while True:
            self._export(self._receiver.recv(MAX_SPAN_BYTES))

    def _export(self, message: bytes) -> None:
        try:
            span, dropped = _read_span(message, self._resource)
        except (pickle.UnpicklingError, EOFError, TypeError, ValueError):  # cut; the next one is whole
            log.exception("span.unreadable")
            return
        if dropped:
            log.warning("spans.dropped", extra={"count": dropped})
        self._exporting.on_end(span)


def _write_span(span: ReadableSpan, dropped: int, max_length: int | None = None) -> bytes:
    # Plain values, because the SDK's attributes hold a lock, which cannot be pickled.
    scope = span.instrumentation_scope
    fields = {
        "name": span.name,
        "kind": span.kind,
        "context": span.context,
        "parent": span.parent,
        "attributes": _shorten(span.attributes, max_length),
        "start_time": span.start_time,
        "end_time": span.end_time,
    }
    events = [(event.name, _shorten(event.attributes, max_length), event.timestamp) for event in span.events]
    links = [(link.context, _shorten(link.attributes, max_length)) for link in span.links]
    status = (span.status.status_code, (span.status.description or "")[:max_length] or None)
    return pickle.dumps((fields, events, links, status, (scope.name, scope.version) if scope else None, dropped))


def _shorten(attributes: Attributes, max_length: int | None) -> dict[str, object]:
    return {
        name: value[:max_length]
        if isinstance(value, str)
        else tuple(each[:max_length] if isinstance(each, str) else each for each in value)
        if isinstance(value, Sequence)
        else value
        for name, value in (attributes or {}).items()
    }


def _read_span(message: bytes, resource: Resource) -> tuple[ReadableSpan, int]:
    # A process that this one has forked wrote it, so it carries nothing from outside.
    fields, events, links, status, scope, dropped = pickle.loads(message)  # noqa: S301
    span = ReadableSpan(
        **fields,
        resource=resource,
        events=[Event(*event) for event in events],
        links=[Link(*link) for link in links],
        status=Status(*status),
        instrumentation_scope=scope and InstrumentationScope(*scope),
    )
    return span, dropped
