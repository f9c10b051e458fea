"""A small language model on this machine, for tests of the path to a real model. Its answers are of little use.

It has a process of its own, started by `petiole llm serve` (workers/llm/local/server.py), with the same protocol as
the openai provider: a model that is loaded in a worker's parent process hangs the child processes. It gets no tools,
because it does not call any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import ProviderUnavailable
from petiole.workers.llm.openai import ChatCompletionsModel, create_client
from petiole.workers.llm.provider import ResponsePart, ToolDescription
from petiole.workers.settings import WorkerSettings

DEFAULT_PORT: Final = 17210
API_KEY: Final = "local"
MODEL_NAME: Final = "smollm2-135m"
_MAX_TOKENS: Final = 256  # the model does not always stop by itself


class LocalModel(ChatCompletionsModel):
    """SmolLM2-135M in a process of its own."""

    name = "local"

    def __init__(self) -> None:
        """Create the client; sends nothing. Raises UsageError (missing_extra)."""
        settings = WorkerSettings()
        self._url = settings.llm_base_url or f"http://127.0.0.1:{DEFAULT_PORT}/v1"
        client = create_client(self._url, API_KEY, settings.llm_timeout_s, provider=self.name, extra="llm")
        super().__init__(MODEL_NAME, client, max_tokens=_MAX_TOKENS, temperature=0)

    def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:  # noqa: ARG002 - see the module
        """Stream the answer. Raises: ProviderUnavailable, also if the process does not run; ProviderRefused."""
        return super().answer(request)

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        if "timed out" in reason:
            return super()._unavailable(reason)
        return ProviderUnavailable(self.name, f"{reason} to {self._url}; start it: petiole llm serve")
