"""Turn detection: whether a pause of the user ends the turn.

    silence      the pause has lasted for PETIOLE_TURN_SILENCE_S
    smart_turn   a model hears from melody and words whether the sentence is complete. A turn then ends with the first
                 pause; after an incomplete sentence it ends with a pause of INCOMPLETE_SILENCE_S

The model is Smart Turn v3 (BSD-2), 8 MB. Its weights are those in the package `pipecat-ai`, which is not imported.
It needs `onnxruntime` and numpy, which the extra `memory` installs; models.lock has the line for the weights.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

from petiole.events.errors import UsageError, missing_extra
from petiole.workers.process.model_process import ModelProcess
from petiole.workers.streams.audio_state import FRAME_MS, AudioState
from petiole.workers.streams.pcm import resample
from petiole.workers.streams.utterances import HANG_OVER_FRAMES

INCOMPLETE_SILENCE_S: Final = 2.0
COMPLETE_PROBABILITY: Final = 0.5
WEIGHTS: Final = ("pipecat", "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx")


def is_over_after_silence(state: AudioState, silence_s: float) -> bool:
    """Return whether the pause has lasted for `silence_s`."""
    return state.silent_frames * FRAME_MS >= silence_s * 1_000


def asks_model(state: AudioState) -> bool:
    """Return whether this is the moment of a pause at which the model is asked: as soon as it is a pause."""
    return state.silent_frames == HANG_OVER_FRAMES


class SmartTurn:
    """The model, for all workers of this machine."""

    def __init__(self) -> None:
        find_turn_weights()
        if importlib.util.find_spec("onnxruntime") is None:
            raise missing_extra("PETIOLE_TURN_DETECTION=smart_turn", "memory")
        self.process = ModelProcess("petiole.workers.streams._smart_turn:load_turn_model", "smart_turn")

    def complete_probability(self, pcm: bytes, sample_rate: int) -> float:
        """Return the probability, from 0 to 1, that the turn is complete after this mono PCM."""
        return float(self.process.ask(resample(pcm, sample_rate)))


@cache
def load_smart_turn() -> SmartTurn:
    """Return the model. Raises UsageError."""
    return SmartTurn()


def find_turn_weights() -> Path:
    """Find the file with the weights. Raises UsageError (missing_extra)."""
    package, name = WEIGHTS
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0]) / name if found and found.submodule_search_locations else None
    if path is None or not path.is_file():
        raise UsageError(
            "PETIOLE_TURN_DETECTION=smart_turn needs weights that are missing; run: make llm, or set it to silence",
            code="missing_extra",
        )
    return path
