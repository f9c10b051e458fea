from __future__ import annotations

import json

import fakeredis
import pytest

from petiole.events.errors import (
    EventTooLarge,
    HandlerTimedOut,
    HopLimitReached,
    InvalidValue,
    NewerVersion,
    PayloadMissing,
    ToolFailed,
    UnknownEventType,
)
from petiole.tasks.celery import EventApp
from petiole.tasks.settlement.dead_lettering import bury, cause_of, letter_of


@pytest.fixture
def app():
    app = EventApp("test", state=fakeredis.FakeRedis(decode_responses=True), set_as_current=False)
    app.conf.update(broker_url="memory://")
    return app


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UnknownEventType("order.placed"), "unknown_type"),
        (NewerVersion("order.placed", 2, 1), "unknown_type"),
        (InvalidValue("order.placed", "schema_version", "is no version; give 1 or more"), "invalid"),
        (EventTooLarge("order.placed", 10, 5), "invalid"),
        (PayloadMissing("order.placed", "sha"), "payload"),
        (HopLimitReached("order.placed", 17, 16), "loop"),
        (ToolFailed("clock", "it stands still"), "permanent"),
        (HandlerTimedOut("one.act", 5.0), "failed"),
        (RuntimeError("the disk is full"), "failed"),
    ],
)
def test_an_error_says_why_a_delivery_is_given_up(error, cause):
    assert cause_of(error) == cause


def letter(app, document, **parts):
    said = {"delivery_id": "no-uuid", "subscription": "one.act", "queue": "one"} | parts
    return letter_of(app, RuntimeError("half \ud800 a pair"), "failed", document=document, **said)


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": "\ud800"}, ["\udfff"]])
def test_a_document_that_cannot_be_written_as_it_is_is_kept_as_bytes(app, document):
    kept = letter(app, document)

    assert kept.document is None
    assert kept.raw == json.dumps(document).encode()
    assert type(kept).model_validate_json(kept.model_dump_json()) == kept


def test_a_document_nested_deeper_than_anybody_reads_is_kept_as_bytes(app):
    deep: object = 1
    for _ in range(400):
        deep = [deep]

    kept = letter(app, deep)

    assert (kept.document, kept.raw) == (None, json.dumps(deep).encode())


def test_a_delivery_that_a_foreign_client_named_is_buried_like_any_other(app):
    bury(app, letter(app, {"event_type": "order.placed"}))

    (kept,) = app.stores.dead_letters.all()
    assert (kept.delivery_id, kept.error) == ("no-uuid", "half \\ud800 a pair")
