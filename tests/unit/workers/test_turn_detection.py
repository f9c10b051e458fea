"""When a pause ends a turn."""

from __future__ import annotations

import pytest

from petiole.events.errors import UsageError
from petiole.workers.agents import listening
from petiole.workers.settings import WorkerSettings
from petiole.workers.streams.audio_state import AudioState
from petiole.workers.streams.stream_audio import StreamAudio
from petiole.workers.streams.turn_detection import SmartTurn, find_turn_weights
from petiole.workers.streams.utterances import HANG_OVER_FRAMES
from petiole.workers.streams.voice_activity import detectors
from tests.support.errors import has_code
from tests.support.sound import RATE, recorded, silence


def ends_turn(pause_ms: int, **settings: object) -> bool:
    state = AudioState(sample_rate=RATE, frames=200, silent_frames=pause_ms // 32, speech_start=0, length=200 * 512)
    audio = StreamAudio("s", state, lambda first, last: silence(100), detectors)
    return listening.ends_turn(state, audio, WorkerSettings.model_validate(settings))


def test_silence_ends_a_turn_when_it_has_lasted() -> None:
    assert [ends_turn(pause, turn_silence_s=0.8) for pause in (320, 768, 800)] == [False, False, True]


@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_the_model_ends_a_turn_at_once_or_lets_the_user_think(monkeypatch, probability: float) -> None:
    class Model:
        def complete_probability(self, pcm: bytes, sample_rate: int) -> float:
            return probability

    monkeypatch.setattr(listening, "load_smart_turn", Model)
    ended = [ends_turn(pause, turn_detection="smart_turn") for pause in (32 * HANG_OVER_FRAMES, 800, 1_984, 2_016)]

    assert ended == [probability > 0.5, False, False, True]


def test_the_real_model_tells_a_whole_sentence_from_one_that_was_cut() -> None:
    pytest.importorskip("onnxruntime", reason="the extra petiole[memory] is not installed")
    try:
        find_turn_weights()
    except UsageError as error:
        pytest.skip(str(error))
    pcm = b"".join(chunk.data for chunk in recorded())
    model = SmartTurn()

    whole = model.complete_probability(pcm + silence(200), RATE)
    cut = model.complete_probability(pcm[: int(len(pcm) * 0.6) // 2 * 2], RATE)
    model.process.close()

    assert whole > 0.8
    assert cut < 0.2


def test_missing_weights_are_told_with_how_to_get_them(monkeypatch) -> None:
    monkeypatch.setattr("petiole.workers.streams.turn_detection.WEIGHTS", ("no_such_package", "weights.onnx"))

    with pytest.raises(UsageError, check=has_code("missing_extra"), match="make llm"):
        find_turn_weights()
