from __future__ import annotations

import json

import fakeredis
import pytest

from petiole.events.errors import (
    HandlerTimedOut,
    InvalidEvent,
    PayloadUnreadable,
    ToolFailed,
    event_too_large,
    hop_limit_reached,
    newer_version,
    unknown_event_type,
)
from petiole.tasks.settlement.dead_lettering import build_dead_letter, cause_of, dead_letter
from tests.support.apps import a_bus


@pytest.fixture
def bus():
    bus = a_bus(state=fakeredis.FakeRedis(decode_responses=True))
    bus.app.conf.update(broker_url="memory://")
    return bus


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (unknown_event_type("order.placed"), "unknown_type"),
        (newer_version("order.placed", 2, 1), "unknown_type"),
        (
            InvalidEvent("order.placed", "schema_version", "is no version; give 1 or more", code="invalid_value"),
            "invalid",
        ),
        (event_too_large("order.placed", 10, 5), "invalid"),
        (PayloadUnreadable("order.placed", "sha", code="payload_missing"), "payload"),
        (hop_limit_reached("order.placed", 17, 16), "loop"),
        (ToolFailed("clock", "it stands still"), "permanent"),
        (HandlerTimedOut("one.handle", 5.0), "failed"),
        (RuntimeError("the disk is full"), "failed"),
    ],
)
def test_an_error_determines_the_cause_of_its_dead_letter(error, cause):
    assert cause_of(error) == cause


def a_letter(bus, document, **overrides):
    fields = {"delivery_id": "no-uuid", "subscription": "one.handle", "queue": "one"} | overrides
    return build_dead_letter(bus, RuntimeError("a lone \ud800 surrogate"), "failed", document=document, **fields)


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": "\ud800"}, ["\udfff"]])
def test_a_document_that_json_cannot_express_is_kept_as_bytes(bus, document):
    stored = a_letter(bus, document)

    assert stored.document is None
    assert stored.raw == json.dumps(document).encode()
    assert type(stored).model_validate_json(stored.model_dump_json()) == stored


def test_a_too_deeply_nested_document_is_kept_as_bytes(bus):
    deep: object = 1
    for _ in range(400):
        deep = [deep]

    stored = a_letter(bus, deep)

    assert (stored.document, stored.raw) == (None, json.dumps(deep).encode())


def test_a_delivery_id_that_is_not_a_uuid_is_dead_lettered(bus):
    dead_letter(bus, a_letter(bus, {"event_type": "order.placed"}))

    (stored,) = bus.stores.dead_letters.all()
    assert (stored.delivery_id, stored.error) == ("no-uuid", "a lone \\ud800 surrogate")
