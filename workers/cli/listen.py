"""Send a recording, or the microphone, as the audio of a stream, and show what the agents hear and answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import click

from petiole.events.content import AudioContent
from petiole.workers.cli._console import open_console, render_message
from petiole.workers.cli._conversation import new_stream_id
from petiole.workers.cli._microphone import open_microphone
from petiole.workers.cli._options import POSITIVE, connected_app, format_command
from petiole.workers.cli._recording import CHUNK_MS, Recording, caption_event
from petiole.workers.observability.printable import replace_unprintable
from petiole.workers.streams.wav import read_wav


@click.command
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mic", "uses_microphone", is_flag=True, help="Listen to the microphone instead, until Ctrl-C.")
@click.option("--stream", metavar="ID", help="The stream to send it in; by default a new one.")
@click.option("--user", default="you", show_default=True, metavar="ID", help="The user who speaks.")
@click.option("--speed", type=POSITIVE, default=1.0, show_default=True, help="1 is real time, 10 ten times as fast.")
@click.option(
    "--timeout",
    type=POSITIVE,
    default=30.0,
    show_default=True,
    metavar="S",
    help="Wait for answers at most this many seconds after the recording.",
)
def command(
    file: Path | None, *, uses_microphone: bool, stream: str | None, user: str, speed: float, timeout: float
) -> None:
    """Send FILE, a WAV file with 16-bit PCM, and show what is heard and answered, as it comes.

    A worker with the agent `listening` has to run, such as that of `petiole up`. Exits with 1 if no message was heard,
    or an answer is missing.
    """
    if (file is None) != uses_microphone:
        raise click.UsageError("give either a FILE or --mic")
    chunks = open_microphone(CHUNK_MS) if file is None else open_recording(file)
    channel, speed = ("microphone", math.inf) if file is None else ("recording", speed)
    recording = Recording(connected_app(), chunks, stream or new_stream_id("call"), user, speed, channel)
    console = open_console()
    console.print(replace_unprintable(f"stream {recording.stream_id}"), style="dim")
    if uses_microphone:
        console.print("speak; Ctrl-C ends", style="dim")
    for recorded in recording.follow(timeout):
        if line := caption_event(recorded):
            console.print(render_message(*line))
    if recording.is_answered and not recording.messages:
        raise click.ClickException("the audio was heard, but no words in it: it is silent, or none were recognized")
    if not recording.is_answered:
        missing = "an answer is missing" if recording.messages else "no message was heard"
        hint = f"check that a worker runs, with the extra `voice`: {format_command('agents')}"
        raise click.ClickException(f"{missing}, {timeout:g} s after the last sound; {hint}")


def open_recording(file: Path) -> Iterator[AudioContent]:
    """Check a whole file, before any of it is published. Raises UsageError (invalid_audio)."""
    for _ in read_wav(file, 1_000):
        pass
    return read_wav(file, CHUNK_MS)
