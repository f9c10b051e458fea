"""Measure voice: `python -m tests.benchmarks.voice`, or some of it: `… streams interruption`.

    sentences      ten sentences by two synthetic voices, each clean, with white noise at 10 dB, and with a pause of
                   half a second inside, for each transcriber that is installed: one stream after the other, in real
                   time
    streams        five streams of a thousand chunks of 20 ms at the same time, in real time
    interruption   how soon a spoken answer stops when its user speaks
    written        how soon the model's connection is closed when the user speaks while it writes
    frames         how 150 frames of a video change the time of a text answer

Each through real workers and a broker of its own. Takes half an hour. Needs flite, espeak-ng and the extra `voice`.
`sentences:faster_whisper` measures one transcriber.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from petiole.events import AudioChunkEvent, AudioContent
from petiole.events.errors import UsageError
from petiole.tasks import EventBus
from petiole.workers.process import embedded_broker
from petiole.workers.synthesis import Speech
from petiole.workers.synthesis._program import run_synthesizer
from petiole.workers.transcription import create_transcriber, list_transcribers
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.processes import Node

SENTENCES = (
    "hello can you help me please",
    "what time is it in the city of tokyo",
    "please remember that my sister lives in berlin",
    "i would like to know the weather for tomorrow",
    "tell me what you know about my garden",
    "the train to the mountains leaves in the morning",
    "did i ask you about the meeting on friday",
    "my favorite color is green and i like tea",
    "how many people live in this country",
    "thank you very much for your help today",
)
VOICES = {
    "flite slt": ("flite", ["-voice", "slt", "-o", "{output}", "-f", "{input}"]),
    "espeak-ng en-us": ("espeak-ng", ["-v", "en-us", "-s", "150", "-w", "{output}", "-f", "{input}"]),
}
CONDITIONS = ("clean", "noise 10 dB", "pause 0.5 s")
RATE_CHUNKS_PER_S = 10
GAP_S = 2.5


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence in a stream: where its speech starts and ends, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Track:
    """The audio of one stream and its sentences."""

    stream_id: str
    rate: int
    pcm: bytes
    sentences: list[Spoken]


def build_track(voice: str, condition: str) -> Track:
    program, options = VOICES[voice]
    pcm, sentences, rate = b"", [], 0
    for text in SENTENCES:
        speech = run_synthesizer(program, options, text)
        rate = speech.sample_rate
        audio = trimmed(speech)
        if condition.startswith("pause"):
            audio = with_pause(audio, rate)
        pcm += bytes(rate)
        start = len(pcm) / 2 / rate
        pcm += audio
        sentences.append(Spoken(text, start, len(pcm) / 2 / rate))
        pcm += bytes(2 * int(rate * GAP_S))
    if condition.startswith("noise"):
        pcm = with_noise(pcm, sentences, rate, 10.0)
    return Track(f"{voice} {condition}", rate, pcm, sentences)


def samples_of(pcm: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(pcm) // 2}h", pcm))


def bytes_of(samples: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(samples)}h", *(max(-32_768, min(32_767, round(sample))) for sample in samples))


def trimmed(speech: Speech) -> bytes:
    """Cut silence off both ends, so that the end of speech is known."""
    samples = samples_of(speech.pcm)
    loud = [index for index, sample in enumerate(samples) if abs(sample) > 300]
    return bytes_of(samples[loud[0] : loud[-1] + 1])


def with_pause(audio: bytes, rate: int) -> bytes:
    """Put half a second of silence at the quietest place in the middle third."""
    samples, width = samples_of(audio), rate // 50
    starts = range(len(samples) // 3, 2 * len(samples) // 3, width)
    quietest = min(starts, key=lambda start: sum(map(abs, samples[start : start + width])))
    return bytes_of([*samples[:quietest], *[0] * (rate // 2), *samples[quietest:]])


def with_noise(pcm: bytes, sentences: Sequence[Spoken], rate: int, decibels: float) -> bytes:
    samples, noise = samples_of(pcm), random.Random(1)
    speech = [sample for each in sentences for sample in samples[int(each.start_s * rate) : int(each.end_s * rate)]]
    power = sum(sample * sample for sample in speech) / len(speech)
    level = (power / 10 ** (decibels / 10)) ** 0.5
    return bytes_of([sample + noise.gauss(0, level) for sample in samples])


def send(bus: EventBus, tracks: Sequence[Track]) -> dict[str, float]:
    """Send all tracks in real time; returns when each began, in seconds since 1970."""
    began = time.time()
    sizes = {track.stream_id: 2 * track.rate // RATE_CHUNKS_PER_S for track in tracks}
    longest = max(len(track.pcm) // sizes[track.stream_id] + 1 for track in tracks)
    for sequence in range(longest):
        time.sleep(max(0.0, began + (sequence + 1) / RATE_CHUNKS_PER_S - time.time()))
        for track in tracks:
            size = sizes[track.stream_id]
            if data := track.pcm[sequence * size : (sequence + 1) * size]:
                content = AudioContent(
                    data=data,
                    duration_ms=max(1, round(len(data) / 2 * 1_000 / track.rate)),
                    sample_rate=track.rate,
                    sequence=sequence,
                    is_last=(sequence + 1) * size >= len(track.pcm),
                )
                bus.publish(AudioChunkEvent(stream_id=track.stream_id, content=content))
    return {track.stream_id: began for track in tracks}


def word_errors(spoken: str, heard: str) -> int:
    """Count the words to insert, delete and replace (Levenshtein)."""
    row = list(range(len(heard.split()) + 1))
    for number, word in enumerate(spoken.split(), 1):
        previous, row[0] = row[0], number
        for index, other in enumerate(heard.split(), 1):
            previous, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, previous + (word != other))
    return row[-1]


def normalized(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter == " " else " " for letter in text.lower().replace("'", ""))
    return " ".join(kept.split())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sentence."""

    utterances: int
    errors: int
    transcript_s: float | None
    audio_s: float | None


def evaluate(inside: Inside, track: Track, began: float) -> Iterator[Outcome]:
    recorded = [each for each in inside.recorded() if each.attributes["stream_id"] == track.stream_id]
    utterances = [each for each in recorded if each.topic == "stream.utterance.completed"]
    first_audio: dict[str, float] = {}
    for each in recorded:
        if each.topic == "output.audio.chunk":
            first_audio.setdefault(each.attributes["correlation_id"], each.recorded_at_ms / 1_000)
    for sentence in track.sentences:
        own = [each for each in utterances if overlaps(each.document["content"], sentence)]
        text = normalized(" ".join(str(each.document["content"]["text"]) for each in own))
        ended = began + sentence.end_s
        last = own[-1] if own else None
        audio = first_audio.get(last.attributes["correlation_id"]) if last else None
        yield Outcome(
            len(own),
            word_errors(sentence.text, text),
            last.recorded_at_ms / 1_000 - ended if last else None,
            audio - ended if audio else None,
        )


def overlaps(content: dict[str, float], sentence: Spoken) -> bool:
    return content["start_ms"] / 1_000 < sentence.end_s and content["end_ms"] / 1_000 > sentence.start_s


def percentile(values: Sequence[float], share: float) -> str:
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))]:.2f}" if ordered else "-"


def measure_sentences(transcriber: str) -> Iterator[str]:
    """Yield the rows of a transcriber, under a heading."""
    yield "| transcriber | voice | condition | found | cut | word errors | → transcript, s | → first audio, s |"
    yield "|---|---|---|---|---|---|---|---|"
    for voice in VOICES:
        tracks = [build_track(voice, condition) for condition in CONDITIONS]
        with a_system(PETIOLE_TRANSCRIBER=transcriber) as (node, inside, bus):
            node.worker("team", "--pool", "threads", "--concurrency", "32")
            warm_up = build_track(voice, "clean")
            warm_up.stream_id, warm_up.pcm = "warm-up", warm_up.pcm[: 12 * warm_up.rate]
            send(bus, [warm_up])
            began = {name: start for track in tracks for name, start in send(bus, [track]).items()}
            wait_until(lambda: not inside.deliveries(), 600, node.logs)
            for track, condition in zip(tracks, CONDITIONS, strict=True):
                yield line(transcriber, voice, condition, list(evaluate(inside, track, began[track.stream_id])))


@contextmanager
def a_system(**environment: str) -> Iterator[tuple[Node, Inside, EventBus]]:
    """Start a broker; its node starts workers, which end with the block."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url = embedded_broker.start_broker(home / "broker").url
        root = str(Path(__file__).resolve().parents[2])
        variables = {"PETIOLE_BROKER_URL": url, "PYTHONUNBUFFERED": "1", "PYTHONPATH": root}
        node = Node(os.environ | variables | environment, home, [])
        try:
            with a_bus(url) as bus:
                yield node, Inside(url), bus
        finally:
            for process in node.processes:
                process.kill()
                process.wait(timeout=10)
            embedded_broker.stop_broker(home / "broker")


def line(transcriber: str, voice: str, condition: str, outcomes: Sequence[Outcome]) -> str:
    words = sum(len(sentence.split()) for sentence in SENTENCES)
    found = sum(outcome.utterances > 0 for outcome in outcomes)
    cut = sum(outcome.utterances > 1 for outcome in outcomes)
    errors = sum(outcome.errors for outcome in outcomes)
    columns: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for name in ("transcript_s", "audio_s"):
            if (value := getattr(outcome, name)) is not None:
                columns[name].append(value)
    times = [
        f"{percentile(columns[name], 0.5)} / {percentile(columns[name], 0.95)}" for name in ("transcript_s", "audio_s")
    ]
    cells = [
        transcriber,
        voice,
        condition,
        f"{found}/{len(outcomes)}",
        str(cut),
        f"{100 * errors / words:.0f} %",
        *times,
    ]
    return "| " + " | ".join(cells) + " |"


def installed_transcribers() -> list[str]:
    """List the transcribers whose packages are installed."""
    found = []
    for name in list_transcribers():
        with suppress(UsageError):
            create_transcriber(name)
            found.append(name)
    return found


if __name__ == "__main__":
    from tests.benchmarks.voice_load import MEASUREMENTS

    for argument in sys.argv[1:] or ["sentences", *MEASUREMENTS]:
        what, _, transcriber_name = argument.partition(":")
        if what == "sentences":
            names = [transcriber_name] if transcriber_name else installed_transcribers()
            rows: Iterator[str] = chain.from_iterable(map(measure_sentences, names))
        else:
            rows = MEASUREMENTS[what]()
        for text in rows:
            print(text, flush=True)  # noqa: T201 - its output
