"""Run a program that speaks a text into a WAV file, with limits."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from petiole.events.errors import NotConfigured, ProviderUnavailable
from petiole.workers.synthesis import MAX_TEXT_LENGTH, Speech

TIMEOUT_S: Final = 20.0
_HEADER_BYTES, _RATE = 44, slice(24, 28)
_MAX_ERROR_LENGTH: Final = 200


def run_synthesizer(program: str, options: Sequence[str], text: str) -> Speech:
    """Let a program read a text from a file, its last option, and write a WAV file, the option before `{output}`.

    `{input}` and `{output}` in the options stand for the files. A text is never part of the command line.

    Raises: NotConfigured if the program is not installed; ProviderUnavailable.
    """
    with tempfile.TemporaryDirectory(prefix="petiole-") as folder:
        source, output = Path(folder, "text.txt"), Path(folder, "speech.wav")
        source.write_text(text[:MAX_TEXT_LENGTH], encoding="utf-8", errors="replace")
        files = {"{input}": str(source), "{output}": str(output)}
        try:
            done = subprocess.run(
                [program, *(files.get(option, option) for option in options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise NotConfigured(
                f"the synthesizer {program}", f"install the program, such as `apt-get install {program}`"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ProviderUnavailable(program, f"did not speak the text within {TIMEOUT_S:g} s") from error
        recorded = output.read_bytes() if output.is_file() else b""
    if done.returncode or len(recorded) <= _HEADER_BYTES:
        reason = done.stderr.decode(errors="replace").strip()[:_MAX_ERROR_LENGTH] or "it wrote no audio"
        raise ProviderUnavailable(program, f"exit code {done.returncode}: {reason}")
    # The header's sizes may be those of an endless stream, so `wave` is not asked.
    return Speech(recorded[_HEADER_BYTES:], int.from_bytes(recorded[_RATE], "little"))
