"""PocketSphinx with the model of its package: American English, 110 MB of memory. Needs the extra `voice`.

Its decoder keeps Python's global lock for as long as it decodes, a second or two, in which the whole worker would stand
still. So it runs in a process of its own (_decoder.py), which starts with the first utterance.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from typing import Final

from petiole.events.errors import ProviderUnavailable, missing_extra

TIMEOUT_S: Final = 60.0


class PocketSphinx:
    """One decoder; it transcribes one utterance at a time."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        if importlib.util.find_spec("pocketsphinx") is None:
            raise missing_extra("transcription by pocketsphinx", "voice")
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz. Raises ProviderUnavailable."""
        if not pcm:
            return ""
        with self._lock:
            process = self._running()
            watchdog = threading.Timer(TIMEOUT_S, process.kill)
            watchdog.start()
            try:
                return self._ask(process, pcm)
            except OSError as error:
                raise ProviderUnavailable(self.name, "its process ended") from error
            finally:
                watchdog.cancel()

    def close(self) -> None:
        """End the process. The next utterance starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            command = [sys.executable, "-m", "petiole.workers.transcription._decoder"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], pcm: bytes) -> str:
        if process.stdin is None or process.stdout is None:  # never, with pipes
            raise ProviderUnavailable(self.name, "its process has no pipes")
        process.stdin.write(len(pcm).to_bytes(4, "big") + pcm)
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise ProviderUnavailable(self.name, f"its process ended with code {process.returncode}, or was too slow")
        return str(json.loads(line))


RECOGNIZER: Final = PocketSphinx
