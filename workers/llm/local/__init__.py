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
from petiole.workers.llm.openai import Endpoint, connect
from petiole.workers.llm.provider import Part, ToolDescription
from petiole.workers.settings import WorkerSettings

PORT: Final = 17210
KEY: Final = "local"
MODEL: Final = "smollm2-135m"
_MOST_TOKENS: Final = 256  # it may not find an end by itself


class Local(Endpoint):
    """SmolLM2-135M, by its own process."""

    name = "local"

    def __init__(self) -> None:
        """Prepare the client; nothing is sent yet. Raises UsageError (missing_extra)."""
        settings = WorkerSettings()
        self._url = settings.llm_base_url or f"http://127.0.0.1:{PORT}/v1"
        client = connect(self._url, KEY, settings.llm_timeout_s, of=self.name, extra="llm")
        super().__init__(MODEL, client, max_tokens=_MOST_TOKENS, temperature=0)

    def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[Part]:  # noqa: ARG002 - see the module
        """Ask it. Raises: ProviderUnavailable, also where it does not run; ProviderRefused."""
        return super().answer(request)

    def _unreached(self, reason: str) -> ProviderUnavailable:
        if "timed out" in reason:
            return super()._unreached(reason)
        return ProviderUnavailable(self.name, f"{reason} to {self._url}; start it: petiole llm serve")
