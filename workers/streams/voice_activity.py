"""The probability of speech in each frame of a stream.

A detector remembers what it heard of its stream. All workers of a machine share one process with the detectors of the
streams that were handled last (workers/process/model_process.py). It has none for a stream that another machine
handled before: a new detector first hears the last WARM_UP_FRAMES again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from petiole.workers.process.model_process import ModelProcess
from petiole.workers.streams.audio_state import FRAME_BYTES

WARM_UP_FRAMES: Final = 16
_MAX_DETECTORS: Final = 64  # a few megabytes each


class VoiceActivityDetector(Protocol):
    """Hears one frame after the other."""

    def process_chunk(self, audio: bytes, /) -> float:
        """Return the probability, from 0 to 1, that this frame is speech."""
        ...


class VoiceActivity(Protocol):
    """Hears the streams of several callers."""

    def hear(self, stream_id: str, heard: int, frames: bytes, last_frames: bytes | None = None) -> list[float] | None:
        """Return the probability of speech in each frame.

        Args:
            stream_id: The stream.
            heard: So many of its frames were heard before these.
            frames: Whole frames.
            last_frames: The last frames before them. None at first: the result is None if they are needed.
        """
        ...


class DetectorCache:
    """The detectors of this process, each with the number of frames that it has heard of its stream."""

    def __init__(self, create: Callable[[], VoiceActivityDetector]) -> None:
        self._create = create
        self._detectors: OrderedDict[str, tuple[VoiceActivityDetector, int]] = OrderedDict()
        self._lock = threading.Lock()

    def hear(self, stream_id: str, heard: int, frames: bytes, last_frames: bytes | None = None) -> list[float] | None:
        """Return the probability of speech in each frame, as VoiceActivity tells."""
        with self._lock:
            detector, position = self._detectors.pop(stream_id, (None, 0))
        if detector is None or position != heard:
            if heard and last_frames is None:
                return None
            detector = self._create()
            _process(detector, last_frames or b"")
        found = _process(detector, frames)
        with self._lock:
            self._detectors[stream_id] = (detector, heard + len(found))
            if len(self._detectors) > _MAX_DETECTORS:
                self._detectors.popitem(last=False)
        return found


def _process(detector: VoiceActivityDetector, frames: bytes) -> list[float]:
    return [detector.process_chunk(frames[first : first + FRAME_BYTES]) for first in range(0, len(frames), FRAME_BYTES)]


class SharedDetectors:
    """The Silero model, in a process that all workers of this machine share."""

    def __init__(self) -> None:
        self.process = ModelProcess("petiole.workers.streams._silero:load_silero", "voice activity detection")

    def hear(self, stream_id: str, heard: int, frames: bytes, last_frames: bytes | None = None) -> list[float] | None:
        """Return the probability of speech in each frame, as VoiceActivity tells. Raises ProviderUnavailable."""
        header = {"stream_id": stream_id, "heard": heard, "last": None if last_frames is None else len(last_frames)}
        request = json.dumps(header).encode() + b"\n" + (last_frames or b"") + frames
        found: list[float] | None = json.loads(self.process.ask(request))
        return found


detectors: Final = SharedDetectors()
"""The detectors of this machine. None is loaded before the first chunk, and so none before a fork."""
