"""Turn detection: whether a pause of the user ends the turn."""

from __future__ import annotations

from petiole.workers.streams.audio_state import FRAME_MS, AudioState


def is_over_after_silence(state: AudioState, silence_s: float) -> bool:
    """Return whether the pause has lasted for `silence_s`."""
    return state.silent_frames * FRAME_MS >= silence_s * 1_000
