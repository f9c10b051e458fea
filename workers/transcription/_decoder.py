"""A process that transcribes with PocketSphinx: `python -m petiole.workers.transcription._decoder`.

Reads requests from standard input: four bytes with a length, then so much PCM. Writes the text of each as a line of
JSON. Ends with its input, and so with the process that started it.
"""

from __future__ import annotations

import json
import sys

from pocketsphinx import Decoder


def main() -> None:
    """Transcribe requests until the input ends."""
    decoder = Decoder(samprate=16_000, loglevel="FATAL")
    while len(head := sys.stdin.buffer.read(4)) == 4:  # noqa: PLR2004 - the length
        pcm = sys.stdin.buffer.read(int.from_bytes(head, "big"))
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        sys.stdout.write(json.dumps(hypothesis.hypstr.strip() if hypothesis else "") + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
