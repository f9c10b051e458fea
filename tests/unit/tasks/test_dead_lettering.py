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
        (HandlerTimedOut("one.act", 5.0), "failed"),
        (RuntimeError("the disk is full"), "failed"),
    ],
)
def test_an_error_determines_the_cause_of_its_dead_letter(error, cause):
    assert cause_of(error) == cause


def letter(bus, document, **parts):
    said = {"delivery_id": "no-uuid", "subscription": "one.act", "queue": "one"} | parts
    return build_dead_letter(bus, RuntimeError("half \ud800 a pair"), "failed", document=document, **said)


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": "\ud800"}, ["\udfff"]])
def test_a_document_that_json_cannot_express_is_kept_as_bytes(bus, document):
    kept = letter(bus, document)

    assert kept.document is None
    assert kept.raw == json.dumps(document).encode()
    assert type(kept).model_validate_json(kept.model_dump_json()) == kept


def test_a_too_deeply_nested_document_is_kept_as_bytes(bus):
    deep: object = 1
    for _ in range(400):
        deep = [deep]

    kept = letter(bus, deep)

    assert (kept.document, kept.raw) == (None, json.dumps(deep).encode())


def test_a_delivery_id_that_is_not_a_uuid_is_dead_lettered(bus):
    dead_letter(bus, letter(bus, {"event_type": "order.placed"}))

    (kept,) = bus.stores.dead_letters.all()
    assert (kept.delivery_id, kept.error) == ("no-uuid", "half \\ud800 a pair")
