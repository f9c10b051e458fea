"""Turn detection: whether a pause of the user ends the turn.

    silence      the pause has lasted for PETIOLE_TURN_SILENCE_S
    smart_turn   a model hears from melody and words whether the sentence is complete. A turn then ends with the first
                 pause; after an incomplete sentence it ends with a pause of INCOMPLETE_SILENCE_S

The model is Smart Turn v3 (BSD-2), 8 MB. Its weights are those in the package `pipecat-ai`, which is not imported.
It needs `onnxruntime` and numpy, which the extra `memory` installs; models.lock has the line for the weights.

Source of the features: Whisper's log-mel spectrogram (Radford et al., 2022, section 2.2) with Slaney's mel filters, of
the last eight seconds, normalized to mean 0 and variance 1, as the model was trained.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from petiole.events.errors import UsageError, missing_extra
from petiole.workers.streams.audio_state import FRAME_MS, AudioState
from petiole.workers.streams.pcm import MODEL_SAMPLE_RATE, resample_floats
from petiole.workers.streams.utterances import HANG_OVER_FRAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

INCOMPLETE_SILENCE_S: Final = 2.0
COMPLETE_PROBABILITY: Final = 0.5
WEIGHTS: Final = ("pipecat", "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx")
_WINDOW_SAMPLES: Final = 8 * MODEL_SAMPLE_RATE
_FFT_SAMPLES, _HOP_SAMPLES, _BANDS = 400, 160, 80


def is_over_after_silence(state: AudioState, silence_s: float) -> bool:
    """Return whether the pause has lasted for `silence_s`."""
    return state.silent_frames * FRAME_MS >= silence_s * 1_000


def asks_model(state: AudioState) -> bool:
    """Return whether this is the moment of a pause at which the model is asked: as soon as it is a pause."""
    return state.silent_frames == HANG_OVER_FRAMES


class SmartTurn:
    """The model. Threads may use it at the same time."""

    def __init__(self) -> None:
        path = find_turn_weights()
        try:
            import onnxruntime  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise missing_extra("PETIOLE_TURN_DETECTION=smart_turn", "memory") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._filters = build_mel_filters()
        self._lock = threading.Lock()

    def complete_probability(self, pcm: bytes, sample_rate: int) -> float:
        """Return the probability, from 0 to 1, that the turn is complete after this mono PCM."""
        features = compute_features(resample_floats(pcm, sample_rate), self._filters)
        with self._lock:
            (output,) = self._session.run(None, {"input_features": features[None]})
        return float(output.reshape(-1)[0])


# Loaded at the first pause, in the process that listens, and so not before a fork.
@cache
def load_smart_turn() -> SmartTurn:
    """Load the model once per process. Raises UsageError."""
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


def compute_features(samples: NDArray[Any], filters: NDArray[Any]) -> NDArray[Any]:
    """Return the log-mel features of the last eight seconds; shape: 80 bands, 800 steps of 10 ms, 32-bit floats."""
    import numpy  # noqa: ICN001, PLC0415 - an extra

    window = numpy.zeros(_WINDOW_SAMPLES)
    last = samples[-_WINDOW_SAMPLES:]
    window[_WINDOW_SAMPLES - len(last) :] = last
    window = (window - window.mean()) / numpy.sqrt(window.var() + 1e-7)
    padded = numpy.pad(window, _FFT_SAMPLES // 2, mode="reflect")
    frames = numpy.lib.stride_tricks.sliding_window_view(padded, _FFT_SAMPLES)[::_HOP_SAMPLES][:-1]
    power = numpy.abs(numpy.fft.rfft(frames * numpy.hanning(_FFT_SAMPLES + 1)[:-1])) ** 2
    levels = numpy.log10(numpy.maximum(power @ filters.T, 1e-10)).T
    features: NDArray[Any] = ((numpy.maximum(levels, levels.max() - 8) + 4) / 4).astype(numpy.float32)
    return features


def build_mel_filters() -> NDArray[Any]:
    """Build 80 triangular filters of equal area over 201 frequencies, evenly spaced on Slaney's mel scale."""
    import numpy  # noqa: ICN001, PLC0415 - an extra

    # Linear up to 1 kHz, which is mel 15; above, 27 mels are a factor of 6.4.
    top = 15 + 27 * numpy.log(MODEL_SAMPLE_RATE / 2 / 1_000) / numpy.log(6.4)
    mels = numpy.linspace(0, top, _BANDS + 2)
    edges = numpy.where(mels < 15, mels * 200 / 3, 1_000 * 6.4 ** ((mels - 15) / 27))[:, None]  # noqa: PLR2004 - as above
    frequencies = numpy.linspace(0, MODEL_SAMPLE_RATE / 2, _FFT_SAMPLES // 2 + 1)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters: NDArray[Any] = numpy.maximum(0, numpy.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return filters
