"""The contents of events too large to travel."""

from __future__ import annotations

from datetime import timedelta

import pytest

from petiole.events.errors import PayloadUnreadable
from petiole.tasks.settings import Settings
from petiole.tasks.stores import open_stores
from petiole.tasks.stores.blobs import DATAREF, build_blob
from petiole.tasks.stores.keys import Keys
from tests.support.errors import has_code

KEYS = Keys("petiole")


def a_reference(content: object, **attributes: object) -> dict[str, object]:
    return {"event_type": "input.message.received", DATAREF: build_blob(content).reference} | attributes


def test_a_content_is_read_as_it_was_stored(stores):
    content = {"text": "ü \U0001f33f", "odd": [None, 1.5, {"deep": True}, 2**62]}
    stores.blobs.put([build_blob(content)])

    whole = stores.blobs.restore(a_reference(content, stream_id="s"))

    assert whole == {"event_type": "input.message.received", "stream_id": "s", "content": content}


def test_equal_contents_are_stored_once(stores, client):
    stores.blobs.put([build_blob({"text": "one"}), build_blob({"text": "one"}), build_blob({"text": "two"})])
    stores.blobs.put([build_blob({"text": "one"})])

    assert len(client.keys(KEYS.blob("*"))) == 2


def test_a_content_that_is_gone_is_missed_by_name(stores):
    with pytest.raises(PayloadUnreadable, check=has_code("payload_missing"), match=r"input\.message\.received"):
        stores.blobs.restore(a_reference({"text": "never stored"}))


@pytest.mark.parametrize("altered", [b'{"text":"another"}', b"", b"\xff\xfe\x00", b'{"text":"one" }'])
def test_a_content_that_was_altered_is_recognised_and_mended_by_storing_it_again(stores, client, altered):
    stores.blobs.put([build_blob({"text": "one"})])
    (key,) = client.keys(KEYS.blob("*"))
    client.set(key, altered)

    with pytest.raises(PayloadUnreadable, check=has_code("payload_altered"), match=r"input\.message\.received"):
        stores.blobs.restore(a_reference({"text": "one"}))

    stores.blobs.put([build_blob({"text": "one"})])
    assert stores.blobs.restore(a_reference({"text": "one"}))["content"] == {"text": "one"}


def test_a_content_above_the_limit_of_events_is_not_read(client):
    open_stores(client, Settings()).blobs.put([build_blob({"text": "x" * 2_000})])
    stores = open_stores(client, Settings(max_event_bytes=1_000))

    with pytest.raises(PayloadUnreadable, check=has_code("payload_too_large"), match="PETIOLE_MAX_EVENT_BYTES"):
        stores.blobs.restore(a_reference({"text": "x" * 2_000}))


def test_a_content_stays_for_its_age_after_it_was_last_used(client):
    stores = open_stores(client, Settings(history_retention_s=10 * 86_400))
    stores.blobs.put([build_blob({"text": "one"})])
    (key,) = client.keys(KEYS.blob("*"))
    stored_for_ms = client.pttl(key)
    client.pexpire(key, 60_000)

    stores.blobs.restore(a_reference({"text": "one"}))

    ten_days_ms = 10 * 86_400_000
    assert ten_days_ms - 60_000 < stored_for_ms <= ten_days_ms
    assert ten_days_ms - 60_000 < client.pttl(key) <= ten_days_ms


def test_a_content_stays_for_a_week_even_where_the_history_is_shorter(client):
    stores = open_stores(client, Settings(history_retention_s=60))

    stores.blobs.put([build_blob({"text": "one"})])

    (key,) = client.keys(KEYS.blob("*"))
    assert client.pttl(key) > 7 * 86_400_000 - 60_000


def test_the_content_of_an_event_that_expires_is_kept_little_longer_unless_another_event_has_the_same(client):
    stores = open_stores(client, Settings())
    lifetime = timedelta(seconds=3)
    document = a_reference({"text": "one"}, expires_at="2026-11-28T12:00:00Z")

    stores.blobs.put([build_blob({"text": "one"}, lifetime)])
    (key,) = client.keys(KEYS.blob("*"))
    assert stores.blobs.restore(document)["content"] == {"text": "one"}
    assert 60_000 < client.pttl(key) <= 303_000

    stores.blobs.put([build_blob({"text": "one"})])
    stores.blobs.put([build_blob({"text": "one"}, lifetime)])
    assert client.pttl(key) > 6 * 86_400_000


@pytest.mark.parametrize("document", [{}, {"content": 1}, {DATAREF: "https://elsewhere.example/1"}, {DATAREF: 5}])
def test_an_object_without_a_reference_of_ours_is_left_as_it_is(stores, document):
    assert stores.blobs.restore(document) == document
