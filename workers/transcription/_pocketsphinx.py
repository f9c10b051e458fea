"""The decoder of PocketSphinx, in a process of its own (workers/process/model_server.py): PCM in, text out."""

from __future__ import annotations

from collections.abc import Callable

from pocketsphinx import Decoder


def load_pocketsphinx() -> Callable[[bytes], bytes]:
    """Load the model of the package."""
    decoder = Decoder(samprate=16_000, loglevel="FATAL")

    def transcribe(pcm: bytes) -> bytes:
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr.strip().encode() if hypothesis else b""

    return transcribe
