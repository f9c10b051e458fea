"""When a person who sent a recording is told that all of it was heard and answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.catalog.output import MessageSentEvent, SentMessage
from petiole.events.catalog.stream import CapturedSpeech, SpeechCapturedEvent, Utterance, UtteranceCompletedEvent
from petiole.tasks.stores.history import HISTORY_START
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli._recording import Recording
from petiole.workers.state import team_state
from petiole.workers.streams.audio_state import AudioState

WHOLE: dict[str, Any] = {"first_sequence": 0, "last_sequence": 9, "start_ms": 0, "end_ms": 1_000}


@pytest.fixture
def harness() -> Iterator[EventTestHarness]:
    with EventTestHarness([]) as harness:
        yield harness


def test_a_recording_is_not_done_before_what_its_last_chunk_caused_was_published_and_answered(harness) -> None:
    content = CapturedSpeech(data=b"\0\0", sample_rate=16_000, utterance_id="u", is_complete=True, **WHOLE)
    captured = SpeechCapturedEvent(stream_id="call", content=content)
    message = captured.caused(TextMessageEvent, content=TextContent(text="Hello"))
    completed = captured.caused(
        UtteranceCompletedEvent, content=Utterance(utterance_id="u", text="Hello", transcriber="sounds", **WHOLE)
    )
    sent = SentMessage(text="Hello, too", channel="recording", message_id="1")
    answer = message.caused(MessageSentEvent, content=sent)
    recording = Recording(harness.bus, [], "call", "ann", _entry_id=HISTORY_START)

    def is_answered_after(*events: Event) -> bool:
        for event in events:
            harness.publish(event)
        list(recording._read(1))
        return recording.is_answered

    assert not is_answered_after()
    state = AudioState(ended_by=9, last_events=[captured.model_dump_json()])
    team_state(harness.bus).audio_streams.save("call", state, pcm=b"", dropped_samples=0)
    assert not is_answered_after()
    assert not is_answered_after(captured)
    assert not is_answered_after(message, completed)
    assert is_answered_after(answer)
    assert recording.messages == 1
