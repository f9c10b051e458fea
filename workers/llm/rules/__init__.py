"""The default model: rules that build answers from tool results and memories, without a language model."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from petiole.events.catalog.orchestrator import ContextItem, ModelRequest, ToolMessage
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolDescription

_CAPABILITIES = "calculate, tell the time anywhere, count primes, and recall what you told me"
_SELF_DESCRIPTION = "I am no language model, only a set of rules with real tools"

# Keys are intents of workers/llm/rules/intent_rules.py. Other intents are answered from memory.
_FIXED_REPLIES: Final = {
    "greeting": f"Hello! I can help: I {_CAPABILITIES}.",
    "help": f"I can help: I {_CAPABILITIES}.",
    "identity": f"{_SELF_DESCRIPTION}. I {_CAPABILITIES}.",
    "thanks": "You are welcome.",
    "farewell": "Goodbye!",
}

_MAX_QUOTE_LENGTH = 200


class RuleBasedModel:
    """Answers by fixed rules, so the same request always gives the same answer."""

    name = "rules"

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:  # noqa: ARG002 - it calls none
        """Compose the answer, and yield it word by word. Never raises."""
        for word in re.findall(r"\s*\S+", compose_answer(request)):
            yield TextDelta(word)
        yield Finished(model=self.name)


def compose_answer(request: ModelRequest) -> str:
    """Compose an answer from tool results, else from the intent, else from memory."""
    if request.tools:
        return " ".join(_tool_sentence(answer) for answer in request.tools)
    if request.intent in _FIXED_REPLIES:
        return _FIXED_REPLIES[request.intent]
    if request.intent == "statement":
        return f"I will remember that you said: {_quote(request.text)}"
    return _from_memory(request.context)


def _tool_sentence(answer: ToolMessage) -> str:
    if not answer.ok:
        return _as_sentence(f"That did not work: {answer.text or f'{answer.tool} gave no reason'}")
    if " " in answer.text:
        return _as_sentence(answer.text)
    return f"The {answer.tool} says {answer.text or 'nothing'}."


def _from_memory(context: tuple[ContextItem, ...]) -> str:
    # The assistant's own messages quote memories and tool results; quoting them would nest quotations.
    others = [item for item in context if item.role != "assistant"]
    if not others:
        return f"{_SELF_DESCRIPTION}, and have nothing to say to that. I {_CAPABILITIES}."
    return f"{_SELF_DESCRIPTION}, so I cannot think about that. But I remember that {_recollection_sentence(others[0])}"


def _recollection_sentence(item: ContextItem) -> str:
    return f"you said: {_quote(item.text)}" if item.role == "user" else _with_full_stop(item.text)


def _quote(text: str) -> str:
    return f'"{text if len(text) <= _MAX_QUOTE_LENGTH else text[: _MAX_QUOTE_LENGTH - 1] + "…"}"'


def _as_sentence(text: str) -> str:
    return _with_full_stop(text[:1].upper() + text[1:])


def _with_full_stop(text: str) -> str:
    return text if text.rstrip('"').endswith((".", "!", "?", "…")) else f"{text}."
