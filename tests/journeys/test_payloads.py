"""Events too large to travel: their contents stay behind, and nobody on the way notices."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from petiole.events import AudioContent, ErrorEvent, Event, MessageEvent, ParametersContent, VideoContent
from petiole.events.catalog.input import AudioChunkEvent, VideoFrameEvent
from petiole.events.errors import PayloadUnreadable, UsageError
from petiole.events.registry import registry
from petiole.tasks import Agent, Context, listen, publish, publish_many
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK
from petiole.tasks.publishing.claim_check import externalize_content
from petiole.tasks.publishing.document import validate_event
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli._console import render_event_line
from tests.support.errors import has_code
from tests.support.inside import Inside

A_MEGABYTE = 1_000_000


def an_audio_event(size: int = A_MEGABYTE, fill: bytes = b"\x07", **fields: object) -> AudioChunkEvent:
    content = AudioContent(data=fill * size, duration_ms=31_250)
    return AudioChunkEvent.model_validate({"stream_id": "a-call", "content": content} | fields)


def a_listener(name: str, heard: list[Event]) -> Agent:
    agent = Agent(name)

    @agent.on("input.*")
    def hear(event: Event) -> None:
        heard.append(event)

    return agent


def test_handlers_get_a_large_event_as_it_was_published_and_one_copy_serves_them_all(harness):
    heard: list[Event] = []
    for name in ("one", "two", "three", "four", "five"):
        harness.add(a_listener(name, heard))
    event = VideoFrameEvent(stream_id="a-call", content=VideoContent(data=bytes(2_000_000), width=640, height=480))

    harness.send_through(event)

    assert heard == [event] * 5
    assert Inside(harness).payloads() == 1


def test_what_travels_and_what_is_recorded_hold_a_reference(harness):
    event = an_audio_event()
    harness.publish(event)

    (recorded,) = Inside(harness).recorded()

    assert len(json.dumps(recorded.attributes)) < 1_000
    assert str(recorded.attributes["dataref"]).startswith("petiole:sha256:")
    assert registry.parse(recorded.document) == event


def test_the_harness_sees_whole_events(harness):
    event = an_audio_event()

    harness.publish(event)

    assert harness.expect("input.audio.chunk") == event
    assert harness.published_events() == [event]


def test_an_event_published_again_is_stored_once(harness):
    heard: list[Event] = []
    harness.add(a_listener("one", heard))
    event = an_audio_event()

    harness.send_through(event)
    assert harness.publish(event).was_repeated

    assert Inside(harness).payloads() == 1
    assert heard == [event]


def test_a_large_event_can_be_sent_through_the_publish_queue(harness):
    heard: list[Event] = []
    harness.add(a_listener("one", heard))
    event = an_audio_event()

    harness.delay(event)

    assert harness.expect("input.audio.chunk") == event
    harness.send_through(an_audio_event(10))
    assert event in heard


def test_a_handler_may_say_something_large(harness):
    agent = Agent("speaker")
    text = "ü" * A_MEGABYTE

    @agent.on("input.audio.chunk")
    def say(event: Event) -> list[MessageEvent]:
        content = ParametersContent(parameters={"text": text})
        publish(event.caused(MessageEvent, event_type="message.published", content=content))
        publish_many([event.caused(MessageEvent, event_type="message.in_bulk", content=content)])
        return [event.caused(MessageEvent, event_type="message.returned", content=content)]

    harness.add(agent)
    harness.publish(an_audio_event(10))

    for topic in ("message.published", "message.in_bulk", "message.returned"):
        assert harness.expect(topic).content.parameters == {"text": text}
    assert Inside(harness).payloads() == 1


def test_what_a_failed_handler_said_is_not_stored(harness):
    agent = Agent("speaker")

    @agent.on("input.audio.chunk")
    def say(event: Event) -> None:
        content = ParametersContent(parameters={"text": "x" * A_MEGABYTE})
        publish(event.caused(MessageEvent, event_type="message.held", content=content))
        raise RuntimeError("no more")

    harness.add(agent)
    harness.send_through(an_audio_event(10))

    assert Inside(harness).payloads() == 0


def test_a_flow_is_read_whole(harness):
    agent = Agent("memory")
    flows: list[list[Event]] = []

    @agent.on("input.*")
    def keep(event: Event, context: Context) -> None:
        flows.append(context.flow())

    harness.add(agent)
    event = an_audio_event()
    harness.send_through(event)

    assert flows == [[event]]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(Inside.delete_payloads, "payload_missing"), (lambda inside: inside.alter_payloads("{}"), "payload_altered")],
    ids=["gone", "altered"],
)
def test_an_event_whose_content_is_gone_or_altered_is_a_dead_letter(harness, spoil, error):
    heard: list[Event] = []
    agent = Agent("memory")

    # Of one queue and one slot: they get the event one after the other.
    @agent.on("input.*")
    def a_first(event: Event) -> None:
        spoil(Inside(harness))

    @agent.on("input.*")
    def b_second(event: Event) -> None:
        heard.append(event)

    harness.add(agent)
    event = an_audio_event()
    harness.publish(event)

    letter = harness.expect_dead_letter()
    told = harness.expect("error.dead_lettered")
    assert (letter.cause, letter.error_type, letter.subscription) == ("payload", error, "memory.b_second")
    assert isinstance(letter.document, dict)
    assert (letter.document["event_id"], "content" in letter.document) == (event.event_id, False)
    assert heard == []
    assert isinstance(told, ErrorEvent)
    assert (told.content.error_type, told.content.parameters["event_id"]) == (error, event.event_id)


def test_an_expired_event_whose_content_is_gone_is_expired_and_no_dead_letter(harness):
    heard: list[Event] = []
    agent = Agent("memory")

    @agent.on("input.*")
    def a_first(event: Event) -> None:
        Inside(harness).delete_payloads()

    @agent.on("input.*", expires=timedelta(milliseconds=1))
    def b_second(event: Event) -> None:
        heard.append(event)

    harness.add(agent)
    harness.publish(an_audio_event())
    harness.advance(1)

    assert (heard, harness.dead_letters()) == ([], [])


def test_the_dead_letter_of_a_large_event_keeps_all_of_it(harness):
    agent = Agent("memory")

    @agent.on("input.*")
    def fail(event: Event) -> None:
        raise RuntimeError("the disk is full")

    harness.add(agent)
    event = an_audio_event()
    harness.publish(event)

    document = harness.expect_dead_letter().document

    Inside(harness).delete_payloads()
    assert isinstance(document, dict)
    assert registry.parse(document) == event


def test_a_publication_whose_content_is_gone_is_a_dead_letter(harness):
    harness.publish(an_audio_event(10))  # starts the harness
    event = an_audio_event()
    reference = externalize_content(validate_event(event, registry, 10 * A_MEGABYTE), A_MEGABYTE).payload

    harness.bus.app.send_task(PUBLISH_TASK, args=(reference,), queue=PUBLISH_QUEUE)

    letter = harness.expect_dead_letter()
    assert (letter.cause, letter.error_type, letter.subscription) == ("payload", "payload_missing", PUBLISH_TASK)
    assert letter.document == reference


def test_history_shows_what_is_left_of_an_event_whose_content_is_gone(harness):
    event = an_audio_event()
    harness.publish(event)
    Inside(harness).delete_payloads()

    (recorded,) = Inside(harness).recorded()

    assert recorded.document_or_stub["event_id"] == event.event_id
    assert "input.audio.chunk" in render_event_line(recorded).plain
    with pytest.raises(PayloadUnreadable, check=has_code("payload_missing")):
        _ = recorded.document


def test_readers_of_the_history_leave_out_an_expired_event_whose_content_is_gone(harness):
    agent = Agent("memory")
    flows: list[list[Event]] = []

    @agent.on("message.asked")
    def read(event: Event, context: Context) -> None:
        flows.append(context.flow())

    harness.add(agent)
    harness.publish(an_audio_event(correlation_id="flow", expires_at=datetime.now(UTC)))
    Inside(harness).delete_payloads()
    asked = MessageEvent(event_type="message.asked", stream_id="s", correlation_id="flow", content=ParametersContent())
    harness.send_through(asked)

    assert flows == [[asked]]
    assert list(listen(from_start=True, timeout=0, bus=harness.bus)) == [asked]


def test_the_threshold_is_a_setting():
    with EventTestHarness(settings=Settings(claim_check_threshold_bytes=2 * A_MEGABYTE)) as harness:
        harness.publish(an_audio_event())

        assert Inside(harness).payloads() == 0


def test_what_is_above_the_limit_is_refused_and_nothing_is_stored():
    with EventTestHarness(settings=Settings(max_event_bytes=A_MEGABYTE)) as harness:
        with pytest.raises(UsageError, check=has_code("event_too_large"), match="the limit is 1,000,000"):
            harness.publish(an_audio_event())

        assert (Inside(harness).payloads(), harness.published_events()) == (0, [])


def test_a_frame_of_full_hd_fits():
    with EventTestHarness() as harness:
        frame = VideoContent(data=bytes(1_920 * 1_080 * 3), format="rgb24", width=1_920, height=1_080)
        event = VideoFrameEvent(stream_id="a-call", content=frame)

        harness.publish(event)

        assert harness.expect("input.video.frame") == event


AGENT = """
import hashlib, os
import redis
from petiole.events import Event
from petiole.tasks import Agent

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("one")

@agent.on("input.*")
def hash(event: Event) -> None:
    handled.rpush("handled", hashlib.sha256(event.content.data).hexdigest())
"""

PUBLISH = """
import os
from petiole.events import AudioContent
from petiole.events.catalog.input import AudioChunkEvent
from petiole.events.errors import PetioleError
from petiole.tasks import publish, publish_many

def an_event(fill):
    return AudioChunkEvent(stream_id="s", content=AudioContent(data=fill * 1_000_000, duration_ms=1))

try:
    {call}
except PetioleError as error:
    print(type(error).__name__, error)
"""


def test_large_events_reach_a_worker_in_another_process_however_they_are_published(node, client, inside, eventually):
    node.module("agent_one", AGENT)
    node.environment["PETIOLE_AGENTS"] = "agent_one"
    node.worker("first")

    calls = ["publish(an_event(b'a'))", "publish.delay(an_event(b'b'))", "publish_many([an_event(b'c')])"]
    assert [node.run(PUBLISH.format(call=call)) for call in calls] == ["", "", ""]

    eventually(lambda: client.llen("handled") == 3, 30, node.logs)
    assert set(client.lrange("handled", 0, -1)) == {
        hashlib.sha256(fill * A_MEGABYTE).hexdigest() for fill in (b"a", b"b", b"c")
    }
    assert inside.payloads() == 3


@pytest.mark.parametrize("call", ["publish(an_event(b'a'))", "publish.delay(an_event(b'a'))"])
def test_without_a_state_store_a_large_event_is_refused_and_nothing_is_sent(node, client, call):
    node.environment["PETIOLE_STATE_URL"] = "redis://127.0.0.1:1/0"

    told = node.run(PUBLISH.format(call=call))

    assert told.startswith(
        "StateStoreUnavailable the state store could not be reached while publishing input.audio.chunk"
    )
    assert client.dbsize() == 0


def test_commands_show_large_events_whole(node):
    node.run(PUBLISH.format(call="publish(an_event(b'a'))"))

    assert len(node.command("tail", "--from-start", "--count", "1", "--json")) > 1_300_000
    assert len(node.command("trace", "s", "--json")) > 1_300_000
    assert "input.audio.chunk" in node.command("trace", "s")
