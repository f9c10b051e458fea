"""`listen`: a script that watches events and is no agent."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from petiole.events import MessageEvent
from petiole.events.errors import UsageError
from petiole.events.registry import EventRegistry
from petiole.tasks import listen
from tests.support.apps import a_bus


def test_what_is_published_after_the_call_is_seen_and_nothing_else(clean_broker_url, a_message):
    bus = a_bus(clean_broker_url)
    bus.publish.run(a_message("before"))

    heard = listen("input.*", timeout=20, bus=bus)
    bus.publish.run(MessageEvent(stream_id="s", event_type="message.other"))
    bus.publish.run(a_message("after"))

    assert next(heard).content.text == "after"  # type: ignore[attr-defined]  # a text message


def test_without_a_pattern_all_of_the_history_is_read_and_the_timeout_ends_it(clean_broker_url, a_message):
    bus = a_bus(clean_broker_url)
    sent = [bus.publish.run(a_message(str(number))).event for number in range(3)]
    began = time.monotonic()

    assert list(listen(from_start=True, timeout=timedelta(seconds=0.1), bus=bus)) == sent
    assert time.monotonic() - began < 20


def test_an_event_of_a_type_that_is_not_known_here_is_heard_with_its_fields(clean_broker_url):
    publisher, bus = a_bus(clean_broker_url), a_bus(clean_broker_url)
    registry = EventRegistry(allows_undeclared=True)
    object.__setattr__(publisher, "event_registry", registry)
    publisher.publish.run({"stream_id": "s", "event_type": "custom.new", "content": {"parameters": {"n": 7}}})

    (event,) = listen(from_start=True, timeout=0, bus=bus)

    assert event.event_type == "custom.new"
    assert event.content.model_extra == {"parameters": {"n": 7}}


def test_a_pattern_that_matches_no_type_is_refused_at_once(clean_broker_url):
    with pytest.raises(UsageError, match="inptu"):
        listen("inptu.*", bus=a_bus(clean_broker_url))
