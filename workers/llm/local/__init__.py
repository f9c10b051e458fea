"""A small real model on this machine: a toy, which proves the wire and little more.

It runs in a process of its own, which `petiole llm serve` starts (workers/llm/local/server.py), and speaks the
protocol of
the openai provider: a model that is loaded in a worker's parent hangs the children. It is told of no tools, since it
calls none.
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
_MAX_TOKENS: Final = 256  # it may not find an end by itself


class LocalModel(ChatCompletionsModel):
    """SmolLM2-135M, by its own process."""

    name = "local"

    def __init__(self) -> None:
        """Prepare the client; nothing is sent yet. Raises UsageError (missing_extra)."""
        settings = WorkerSettings()
        self._url = settings.llm_base_url or f"http://127.0.0.1:{DEFAULT_PORT}/v1"
        client = create_client(self._url, API_KEY, settings.llm_timeout_s, provider=self.name, extra="llm")
        super().__init__(MODEL_NAME, client, max_tokens=_MAX_TOKENS, temperature=0)

    def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:  # noqa: ARG002 - see the module
        """Ask it. Raises: ProviderUnavailable, also where it does not run; ProviderRefused."""
        return super().answer(request)

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        if "timed out" in reason:
            return super()._unavailable(reason)
        return ProviderUnavailable(self.name, f"{reason} to {self._url}; start it: petiole llm serve")
