"""Spans of a forked process: each that is not too large arrives, and the others are shortened, or counted."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed: make dev")

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from petiole.workers.observability.span_relay import MAX_SPAN_BYTES, SpanRelay


def test_a_span_that_is_too_large_arrives_with_shortened_texts_and_without_an_error(eventually, caplog):
    exporter, resource = InMemorySpanExporter(), Resource.create({})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SpanRelay(SimpleSpanProcessor(exporter), resource))
    tracer = provider.get_tracer("test")

    child = os.fork()
    if child == 0:
        with tracer.start_as_current_span("large") as span:
            span.set_attributes({"prompt": "x" * 2 * MAX_SPAN_BYTES, "model": "m", "words": ["y" * MAX_SPAN_BYTES]})
            span.add_event("answered", {"answer": "z" * MAX_SPAN_BYTES})
        with tracer.start_as_current_span("huge") as span:
            for number in range(120):
                span.set_attribute(f"text {number}", "é" * (2_000 + number))
        with tracer.start_as_current_span("small"):
            pass
        os._exit(0)
    os.waitpid(child, 0)

    eventually(lambda: "small" in {span.name for span in exporter.get_finished_spans()}, 20)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    attributes = spans["large"].attributes
    assert attributes is not None
    assert attributes["model"] == "m"
    assert str(attributes["prompt"]).startswith("xxx")
    assert "huge" not in spans
    assert "spans.dropped" in caplog.text
    assert "span.unreadable" not in caplog.text
