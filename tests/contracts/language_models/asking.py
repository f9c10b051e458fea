"""Language models, and an endpoint that they ask."""

from __future__ import annotations

from typing import Any

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.workers.llm.provider import ToolDescription

ENDPOINTS = ("openai", "local")


def a_request(text: str = "Why is the sky blue?", intent: str = "question", **known: Any) -> ModelRequest:
    return ModelRequest(text=text, intent=intent, **known)


CLOCK = ToolDescription("clock", "Tell the time.", {"type": "object", "properties": {"zone": {"type": "string"}}})
