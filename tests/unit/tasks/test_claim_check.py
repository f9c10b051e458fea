from __future__ import annotations

import hashlib
import json

import pytest

from petiole.events import TextContent, TextMessageEvent, registry
from petiole.tasks.publishing.claim_check import externalize_content
from petiole.tasks.publishing.document import ValidatedEvent, validate_event

LIMIT = 1_000_000


def admitted(text: str, **fields: object) -> ValidatedEvent:
    event = TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text=text)} | fields)
    return validate_event(event, registry, LIMIT)


def test_a_small_event_is_sent_with_its_content():
    event = admitted("hi")

    assert externalize_content(event, 10_000) is event
    assert event.payload == event.document


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f33f"])
def test_the_threshold_is_counted_in_bytes_of_json(letter):
    event = admitted(letter * 1_000)
    size = len(event.text.encode())

    assert externalize_content(event, size).blob is None
    assert externalize_content(event, size - 1).blob is not None


def test_a_large_event_is_sent_with_the_hash_of_its_content():
    event = externalize_content(admitted("x" * 20_000), 10_000)

    travelling = event.payload

    assert event.blob is not None
    assert json.loads(event.blob.content) == event.document["content"]
    assert travelling["dataref"] == f"petiole:sha256:{hashlib.sha256(event.blob.content).hexdigest()}"
    assert "content" not in travelling
    assert set(event.document) - set(travelling) == {"content"}
    assert len(event.text) < 1_000


def test_filters_see_the_full_content_of_a_large_event():
    event = externalize_content(admitted("x" * 20_000), 10_000)

    assert registry.parse(event.document) == event.event


def test_equal_contents_of_different_events_have_one_reference():
    first, second = (externalize_content(admitted("x" * 20_000, stream_id=stream), 10_000) for stream in ("one", "two"))

    assert first.blob == second.blob
    assert first.text != second.text
