"""Smart Turn, in a process of its own (workers/process/model_server.py): PCM in, a probability out.

Source of the features: Whisper's log-mel spectrogram (Radford et al., 2022, section 2.2) with Slaney's mel filters, of
the last eight seconds, normalized to mean 0 and variance 1, as the model was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from petiole.workers.streams.pcm import MODEL_SAMPLE_RATE, to_floats
from petiole.workers.streams.turn_detection import find_turn_weights

_WINDOW_SAMPLES: Final = 8 * MODEL_SAMPLE_RATE
_FFT_SAMPLES, _HOP_SAMPLES, _BANDS = 400, 160, 80


def load_turn_model() -> Callable[[bytes], bytes]:
    """Load the weights, for one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(find_turn_weights()), options, providers=["CPUExecutionProvider"])
    filters = build_mel_filters()

    def complete_probability(pcm: bytes) -> bytes:
        features = compute_features(to_floats(pcm), filters)
        (output,) = session.run(None, {"input_features": features[None]})
        return repr(float(output.reshape(-1)[0])).encode()

    return complete_probability


def compute_features(samples: NDArray[Any], filters: NDArray[Any]) -> NDArray[Any]:
    """Return the log-mel features of the last eight seconds; shape: 80 bands, 800 steps of 10 ms, 32-bit floats."""
    window = np.zeros(_WINDOW_SAMPLES)
    last = samples[-_WINDOW_SAMPLES:]
    window[_WINDOW_SAMPLES - len(last) :] = last
    window = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
    padded = np.pad(window, _FFT_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SAMPLES)[::_HOP_SAMPLES][:-1]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FFT_SAMPLES + 1)[:-1])) ** 2
    levels = np.log10(np.maximum(power @ filters.T, 1e-10)).T
    features: NDArray[Any] = ((np.maximum(levels, levels.max() - 8) + 4) / 4).astype(np.float32)
    return features


def build_mel_filters() -> NDArray[Any]:
    """Build 80 triangular filters of equal area over 201 frequencies, evenly spaced on Slaney's mel scale."""
    # Linear up to 1 kHz, which is mel 15; above, 27 mels are a factor of 6.4.
    top = 15 + 27 * np.log(MODEL_SAMPLE_RATE / 2 / 1_000) / np.log(6.4)
    mels = np.linspace(0, top, _BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1_000 * 6.4 ** ((mels - 15) / 27))[:, None]  # noqa: PLR2004 - as above
    frequencies = np.linspace(0, MODEL_SAMPLE_RATE / 2, _FFT_SAMPLES // 2 + 1)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters: NDArray[Any] = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return filters
