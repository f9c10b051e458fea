"""Piper, in a process of its own (workers/process/model_server.py): text in, the sample rate and PCM out."""

from __future__ import annotations

from collections.abc import Callable

from piper import PiperVoice

from petiole.workers.synthesis.piper import RATE_BYTES, find_voice


def load_piper() -> Callable[[bytes], bytes]:
    """Load the voice."""
    voice = PiperVoice.load(find_voice())

    def synthesize(text: bytes) -> bytes:
        pcm = b"".join(chunk.audio_int16_bytes for chunk in voice.synthesize(text.decode()))
        rate: int = voice.config.sample_rate
        return rate.to_bytes(RATE_BYTES, "big") + pcm

    return synthesize
