"""Measure streams, interruptions and frames: a part of `python -m tests.benchmarks.voice`."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any, Final

from petiole.events import (
    AudioContent,
    FormattedResponse,
    ResponseReadyEvent,
    TextMessageEvent,
    VideoContent,
    VideoFrameEvent,
)
from petiole.events.content import TextContent
from petiole.tasks import EventBus
from tests.benchmarks.voice import a_system, percentile
from tests.support.endpoint import Endpoint, Reply, serving, words
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.sound import RATE, chunk_up, events_of, recorded, silence

STREAMS, CHUNKS, CHUNK_MS = 5, 1_000, 20
INTERRUPTIONS: Final = 10
FRAMES: Final = 150
TEAM: Final = ("--pool", "threads", "--concurrency", "16")


def measure_streams() -> Iterator[str]:
    """Send five streams of a thousand chunks in real time."""
    sentence = b"".join(chunk.data for chunk in recorded()) + silence(1_000)
    pcm = (sentence * 20)[: 2 * RATE * CHUNKS * CHUNK_MS // 1_000]
    chunks = chunk_up(pcm, CHUNK_MS, ends=True)
    names = [f"stream-{number}" for number in range(STREAMS)]
    environment = {
        "PETIOLE_AGENTS": "petiole.workers.agents.listening",
        "PETIOLE_TRANSCRIBER": "tests.support.sound:Numbering",
    }
    with a_system(**environment) as (node, inside, bus):
        node.worker("listening", *TEAM)
        bus.publish(events_of(chunk_up(silence(100)), "warm-up")[0])
        wait_until(lambda: not inside.deliveries(), 60, node.logs)
        began = time.monotonic()
        for number, chunk in enumerate(chunks, 1):
            for name in names:
                bus.publish(events_of([chunk], name)[0])
            time.sleep(max(0.0, began + number * CHUNK_MS / 1_000 - time.monotonic()))
        sent_s = time.monotonic() - began
        wait_until(lambda: not inside.deliveries(), 600, node.logs)
        handled_s = time.monotonic() - began - sent_s
        found = Counter((each.topic, each.attributes["stream_id"]) for each in inside.recorded())
    published = [found["input.audio.chunk", name] for name in names]
    gaps = sum(found["stream.gap.detected", name] for name in names)
    utterances = [found["stream.utterance.completed", name] for name in names]
    yield f"{STREAMS} streams of {CHUNKS} chunks of {CHUNK_MS} ms: published {published} in {sent_s:.1f} s"
    yield f"  all handled {handled_s:.1f} s after the last; gaps {gaps}; utterances of each stream {utterances}"


def measure_interruptions() -> Iterator[str]:
    """Speak into an answer, ten times."""
    environment = {
        "PETIOLE_AGENTS": "petiole.workers.agents.listening,petiole.workers.agents.speaking",
        "PETIOLE_SYNTHESIZER": "tests.support.sound:Humming",
        "PETIOLE_TRANSCRIBER": "tests.support.sound:Numbering",
    }
    after_noticed, after_spoken = [], []
    with a_system(**environment) as (node, inside, bus):
        node.worker("talking", *TEAM)
        for number in range(INTERRUPTIONS + 1):
            noticed, spoken = interrupt_answer(bus, inside, f"call-{number}")
            if number:  # the first one loads the model
                after_noticed.append(noticed)
                after_spoken.append(spoken)
    yield f"speech is noticed → the answer stops, s: {summary(after_noticed)}"
    yield f"speech begins → the answer stops, s: {summary(after_spoken)}"


def interrupt_answer(bus: EventBus, inside: Inside, stream_id: str) -> tuple[float, float]:
    """Return after how many seconds an answer stopped: since speech was noticed, and since it began."""

    def times(topic: str) -> list[float]:
        return [each.recorded_at_ms / 1_000 for each in of_stream(inside, stream_id) if each.topic == topic]

    bus.publish(events_of(chunk_up(silence(100)), stream_id)[0])
    wait_until(lambda: not inside.deliveries(), 60)
    bus.publish(ResponseReadyEvent(stream_id=stream_id, content=FormattedResponse(text="and so on " * 40)))
    wait_until(lambda: len(times("output.audio.chunk")) > 3, 60)
    began = time.time()
    for number, chunk in enumerate(recorded(), 1):
        time.sleep(max(0.0, began + number / 10 - time.time()))
        bus.publish(events_of([chunk.model_copy(update={"sequence": number, "is_last": False})], stream_id)[0])
    wait_until(lambda: bool(times("output.speech.interrupted")), 60)
    wait_until(lambda: not inside.deliveries(), 60)
    (started, *_) = [each for each in of_stream(inside, stream_id) if each.topic == "stream.speech.started"]
    (stopped, *_) = times("output.speech.interrupted")
    spoken_at = began + started.document["content"]["offset_ms"] / 1_000 - 0.1  # after the 100 ms of silence
    return stopped - started.recorded_at_ms / 1_000, stopped - spoken_at


def measure_written_interruptions() -> Iterator[str]:
    """Speak while a model writes the answer, ten times."""
    with serving(slow_and_short()) as endpoint, a_system(**calls_to(endpoint)) as (node, inside, bus):
        node.worker("team", *TEAM)
        closed = [interrupt_written_answer(bus, inside, endpoint, f"call-{n}") for n in range(INTERRUPTIONS + 1)]
    yield f"speech is noticed → the model's connection is closed, s: {summary(closed[1:])}"


def slow_and_short() -> Callable[[object], Reply]:
    """Answer for a minute and a half; each second question, which is the interrupting one, with a word."""
    replies = cycle([("on and " * 300, 0.1), ("yes", 0.0)])
    return lambda _: words(*next(replies))


def calls_to(endpoint: Endpoint) -> dict[str, str]:
    """Return the environment of workers that answer calls with the model of an endpoint."""
    return {
        "NO_PROXY": "*",
        "PETIOLE_LLM": "openai",
        "PETIOLE_LLM_MODEL": "parrot",
        "PETIOLE_LLM_BASE_URL": endpoint.base_url,
        "PETIOLE_SYNTHESIZER": "tests.support.sound:Humming",
        "PETIOLE_TRANSCRIBER": "tests.support.sound:Numbering",
    }


def interrupt_written_answer(bus: EventBus, inside: Inside, endpoint: Endpoint, stream_id: str) -> float:
    """Return after how many seconds the model's connection was closed, since the user's speech was noticed."""
    endpoint.sent, already_closed = 0, len(endpoint.closed_at)
    question = chunk_up(b"".join(chunk.data for chunk in recorded()) + silence(1_500))
    speak(bus, question, stream_id)
    wait_until(lambda: endpoint.sent > 3, 120)
    speak(bus, chunk_up(b"".join(chunk.data for chunk in recorded()), first=len(question)), stream_id)
    wait_until(lambda: len(endpoint.closed_at) > already_closed, 60)
    closed_at = time.time() - (time.monotonic() - endpoint.closed_at[-1])

    def times(topic: str) -> list[float]:
        return [each.recorded_at_ms / 1_000 for each in of_stream(inside, stream_id) if each.topic == topic]

    wait_until(lambda: len(times("llm.response.generated")) == 2 and not inside.deliveries(), 60)
    return closed_at - times("stream.speech.started")[1]


def speak(bus: EventBus, chunks: Sequence[AudioContent], stream_id: str) -> None:
    """Publish chunks in real time."""
    began = time.monotonic()
    for number, event in enumerate(events_of(chunks, stream_id)):
        time.sleep(max(0.0, began + number / 10 - time.monotonic()))
        bus.publish(event)


def measure_frames() -> Iterator[str]:
    """Compare text answers before and while a video is watched."""
    with a_system() as (node, inside, bus):
        node.worker("team", *TEAM)
        answer_s(bus, inside, "warm-up")
        alone = [answer_s(bus, inside, f"alone-{number}") for number in range(15)]
        content = {"format": "rgb24", "width": 200, "height": 166}
        for number in range(FRAMES):
            frame = VideoContent.model_validate(content | {"sequence": number, "data": bytes([number]) * 200 * 166 * 3})
            bus.publish(VideoFrameEvent(stream_id="video", content=frame))
        after = [answer_s(bus, inside, f"after-{number}") for number in range(15)]
    ratio = statistics.median(after) / statistics.median(alone)
    yield f"a text answer, s: alone {summary(alone)}; after {FRAMES} frames {summary(after)}; ratio {ratio:.2f}"


def answer_s(bus: EventBus, inside: Inside, stream_id: str) -> float:
    """Return the seconds between a message and its answer, as recorded."""
    bus.publish(TextMessageEvent(stream_id=stream_id, content=TextContent(text="Hello, can you help me?")))

    def answers() -> list[Any]:
        return [each for each in of_stream(inside, stream_id) if each.topic == "output.message.sent"]

    wait_until(lambda: bool(answers()), 60)
    (message, *_) = of_stream(inside, stream_id)
    return float(answers()[0].recorded_at_ms - message.recorded_at_ms) / 1_000


def of_stream(inside: Inside, stream_id: str) -> list[Any]:
    return inside.stores.history.read_stream(stream_id)


def summary(values: list[float]) -> str:
    return f"p50 {percentile(values, 0.5)}, p95 {percentile(values, 0.95)}, max {max(values):.2f}"


MEASUREMENTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "streams": measure_streams,
    "interruption": measure_interruptions,
    "written": measure_written_interruptions,
    "frames": measure_frames,
}
