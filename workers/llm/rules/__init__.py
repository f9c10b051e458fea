"""The default model: rules that build answers from tool results and memories, without a language model."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from petiole.events.catalog.orchestrator import ContextItem, ModelRequest, ToolMessage
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolCallRequested, ToolDescription
from petiole.workers.llm.rules.intent_rules import PLANNED_TOOLS
from petiole.workers.llm.rules.tool_choice import ToolChoice, choose_tool
from petiole.workers.retrieval.statements import Statement, extract_statements

_CAPABILITIES = (
    "calculate, also with percentages and roots, tell the time and date anywhere, count primes, "
    "and recall or forget what you told me"
)
_SELF_DESCRIPTION = "I am no language model, only a set of rules with real tools"

# Keys are intents of workers/llm/rules/intent_rules.py. Other intents are answered from tools and memory.
_FIXED_REPLIES: Final = {
    "greeting": f"Hello! I can help: I {_CAPABILITIES}.",
    "help": f"I can help: I {_CAPABILITIES}.",
    "identity": f"{_SELF_DESCRIPTION}. I {_CAPABILITIES}.",
    "wellbeing": f"I work. {_SELF_DESCRIPTION}. I {_CAPABILITIES}.",
    "acknowledgement": "All right. What can I do for you?",
    "thanks": "You are welcome.",
    "farewell": "Goodbye!",
}
_OWN_TOOL_INTENTS: Final = frozenset({"question", "statement", "help"})

_MAX_QUOTE_LENGTH = 200
_MAX_NAMED_TOOLS = 10


class RuleBasedModel:
    """Answers by fixed rules, so the same request always gives the same answer."""

    name = "rules"

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Call the tool that the request means, or compose the answer and yield it word by word. Never raises."""
        own_tools = [tool for tool in tools if tool.name not in PLANNED_TOOLS]
        choice = _choose_own_tool(request, own_tools)
        if choice is not None and not choice.missing:
            yield ToolCallRequested(choice.tool, choice.arguments)
            yield Finished(model=self.name, finish_reason="tool_calls")
            return
        answer = _ask_for_arguments(choice) if choice else compose_answer(request, [tool.name for tool in own_tools])
        for word in re.findall(r"\s*\S+", answer):
            yield TextDelta(word)
        yield Finished(model=self.name)


def compose_answer(request: ModelRequest, own_tools: Sequence[str] = ()) -> str:
    """Compose an answer from notes and tool results, else from the intent, else from memory.

    Args:
        request: The request.
        own_tools: The names of the tools that are not bundled.
    """
    results = [*request.tools, *(answer for tool_round in request.rounds for answer in tool_round.answers)]
    if request.notes or results:
        return " ".join([*request.notes, *map(_tool_sentence, results)])
    if request.intent == "about_user":
        return _about_user(request.facts)
    if request.intent == "forget":
        return "I could not look into my memory, so I have forgotten nothing. Please ask again."
    if request.intent in _FIXED_REPLIES:
        return _FIXED_REPLIES[request.intent]
    if request.intent == "statement":
        return _answer_statement(request.text, own_tools)
    return _from_memory(request.context, own_tools)


def _choose_own_tool(request: ModelRequest, tools: Sequence[ToolDescription]) -> ToolChoice | None:
    is_answered = request.notes or request.tools or request.rounds
    if is_answered or not request.may_call_tools or request.intent not in _OWN_TOOL_INTENTS:
        return None
    return choose_tool(request.text, tools)


def _ask_for_arguments(choice: ToolChoice) -> str:
    return (
        f"I can use {choice.tool} for that if you tell me its {' and its '.join(choice.missing)}, all in one message."
    )


def _about_user(facts: Sequence[str]) -> str:
    if not facts:
        return "I know nothing about you yet. Tell me, for instance, your name or where you live."
    return f"You told me: {'; '.join(facts)}."


def _answer_statement(text: str, own_tools: Sequence[str]) -> str:
    statements = extract_statements(text)
    if statements:
        return f"I will remember that {' and that '.join(map(_statement_clause, statements))}."
    if _REMEMBER.match(text):
        return "I will remember it. Ask me later what you said about it."
    return _refusal(own_tools)


_REMEMBER: Final = re.compile(r"^\W*(?:please )?(?:remember|note|keep in mind)\b", re.IGNORECASE)
_CLAUSES: Final = {"home": "you live in {}", "employer": "you work at {}", "occupation": "you work as {}"}


def _statement_clause(statement: Statement) -> str:
    if statement.attribute.startswith("likes "):
        thing = statement.attribute.removeprefix("likes ")
        return f"you like {thing}" if statement.value == "yes" else f"you do not like {thing}"
    template = _CLAUSES.get(statement.attribute)
    return template.format(statement.value) if template else f"your {statement.attribute} is {statement.value}"


def _refusal(own_tools: Sequence[str]) -> str:
    tools = f" I can also use {', '.join(own_tools[:_MAX_NAMED_TOOLS])}." if own_tools else ""
    return f"{_SELF_DESCRIPTION}, so I cannot do that. I {_CAPABILITIES}.{tools}"


def _tool_sentence(answer: ToolMessage) -> str:
    if not answer.ok:
        return _as_sentence(f"That did not work: {answer.text or f'{answer.tool} gave no reason'}")
    if " " in answer.text:
        return _as_sentence(answer.text)
    return f"The {answer.tool} says {answer.text or 'nothing'}."


def _from_memory(context: tuple[ContextItem, ...], own_tools: Sequence[str]) -> str:
    # Only what the user said: answers quote memories, and a reading of a tool was true when it was taken.
    spoken = [item for item in context if item.role == "user"]
    if not spoken:
        return _refusal(own_tools)
    return f"{_SELF_DESCRIPTION}, so I cannot think about that. But I remember that {_recollection_sentence(spoken[0])}"


def _recollection_sentence(item: ContextItem) -> str:
    return f"you said: {_quote(item.text)}"


def _quote(text: str) -> str:
    return f'"{text if len(text) <= _MAX_QUOTE_LENGTH else text[: _MAX_QUOTE_LENGTH - 1] + "…"}"'


def _as_sentence(text: str) -> str:
    return _with_full_stop(text[:1].upper() + text[1:])


def _with_full_stop(text: str) -> str:
    return text if text.rstrip('"').endswith((".", "!", "?", "…")) else f"{text}."
