"""LanguageModel: what an agent knows of a model, whichever one answers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from events.catalog.llm import GeneratedResponse
from events.catalog.orchestrator import ModelRequest


@runtime_checkable
class LanguageModel(Protocol):
    """Something that writes an answer. Used by one handler at a time; made once in each worker process."""

    name: str

    def answer(self, request: ModelRequest) -> GeneratedResponse:
        """Write the answer to one request; the text is never empty.

        Raises: ProviderUnavailable where the same request may succeed later, ProviderRefused where not.
        """
        ...
