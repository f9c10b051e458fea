"""Tracing: send the spans of a worker to an OpenTelemetry collector, from all processes of its pool.

The standard variable OTEL_EXPORTER_OTLP_ENDPOINT switches it on; the extra `otel` has the SDK. A process that has set a
tracer provider of its own keeps it.
The prefork pool: span_relay.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from celery.signals import worker_process_shutdown

from petiole.events.errors import missing_extra
from petiole.tasks.instrumentation.tracing import is_tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

FLUSH_TIMEOUT_MS = 5_000


def install_tracing(environment: Mapping[str, str] = os.environ) -> None:
    """Set a tracer provider if an endpoint is configured and the process has none. Raises UsageError (missing_extra).

    Call it before the pool starts its processes.
    """
    worker_process_shutdown.connect(flush_spans)
    is_wanted = any(environment.get(name) for name in ENDPOINTS) and environment.get("OTEL_TRACES_EXPORTER") != "none"
    if not is_wanted or is_tracing():
        return
    try:
        from opentelemetry import trace

        from petiole.workers.observability.span_relay import build_provider
    except ImportError as error:
        raise missing_extra("the export of traces", "otel") from error
    trace.set_tracer_provider(build_provider())


def flush_spans(**_: object) -> None:
    """Export the spans that wait in this process of the pool, which ends without Python's exit functions."""
    if is_tracing():
        provider: Any = sys.modules["opentelemetry.trace"].get_tracer_provider()
        flush = getattr(provider, "force_flush", None)  # the interface of the API has none
        if flush is not None:
            flush(FLUSH_TIMEOUT_MS)
