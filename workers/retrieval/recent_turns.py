"""Recent turns: the end of a conversation that a model is given word for word, and a summary of the rest.

A turn is a user's message with what tools found for it and what the assistant answered. Turns are given whole, the
newest first, as many as fit into the token budget. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from petiole.events.catalog.memory import MemoryItem

_ASCII_CHARACTERS_PER_TOKEN = 4
"""For English text. Source: OpenAI's page about its tokenizer."""

_TOKENS_PER_MESSAGE = 4
"""What a chat template adds. Source: OpenAI's cookbook, "How to count tokens"."""

_SUMMARY_SHARE = 5
_MAX_SUMMARY_LINE = 120


@dataclass(frozen=True, slots=True)
class RecentTurns:
    """The last turns, and a line for each earlier message of a user; both oldest first."""

    turns: tuple[MemoryItem, ...] = ()
    summary: str = ""


def select_recent_turns(memories: Sequence[MemoryItem], max_tokens: int) -> RecentTurns:
    """Select the last turns within a budget; a fifth of it is for the summary of what is left out.

    A last turn that is longer than the budget is shortened.
    """
    if max_tokens <= 0:
        return RecentTurns()
    turns = _group_turns(memories)
    if sum(map(_turn_tokens, turns)) <= max_tokens:
        return RecentTurns(tuple(memory for turn in turns for memory in turn))
    summary_tokens = max_tokens // _SUMMARY_SHARE
    place = _first_turn_that_fits(turns, max_tokens - summary_tokens)
    kept = turns[place:] or [_shorten_turn(turns[-1], max_tokens - summary_tokens)]
    earlier = [memory for turn in turns[:place] for memory in turn]
    return RecentTurns(tuple(memory for turn in kept for memory in turn), _summarize(earlier, summary_tokens))


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: four ASCII characters, or one other character."""
    others = sum(not sign.isascii() for sign in text)
    return others - (-(len(text) - others) // _ASCII_CHARACTERS_PER_TOKEN)


def _group_turns(memories: Sequence[MemoryItem]) -> list[list[MemoryItem]]:
    """Group by flow, in the order of the first message, because the answers to two users may be interleaved."""
    turns: dict[str, list[MemoryItem]] = {}
    flow = ""
    for place, memory in enumerate(memories):
        if memory.flow or memory.role == "user":
            flow = memory.flow or f"message {place}"
        turns.setdefault(flow, []).append(memory)
    return [sorted(turn, key=lambda memory: memory.role != "user") for turn in turns.values()]


def _turn_tokens(turn: Sequence[MemoryItem]) -> int:
    return sum(estimate_tokens(memory.text) + _TOKENS_PER_MESSAGE for memory in turn)


def _first_turn_that_fits(turns: Sequence[Sequence[MemoryItem]], max_tokens: int) -> int:
    place, tokens = len(turns), 0
    while place and (tokens := tokens + _turn_tokens(turns[place - 1])) <= max_tokens:
        place -= 1
    return place


def _shorten_turn(turn: Sequence[MemoryItem], max_tokens: int) -> list[MemoryItem]:
    # One character is at most one token, so this many characters of each message always fit.
    length = max(1, max_tokens // len(turn) - _TOKENS_PER_MESSAGE)
    return [memory.model_copy(update={"text": shorten_text(memory.text, length)}) for memory in turn]


def _summarize(memories: Sequence[MemoryItem], max_tokens: int) -> str:
    """List the beginnings of the users' messages, as many of the newest as fit."""
    lines: list[str] = []
    tokens = 0
    for line in _summary_lines(reversed(memories)):
        tokens += estimate_tokens(line) + 1
        if tokens > max_tokens:
            break
        if line not in lines:
            lines.append(line)
    return "\n".join(reversed(lines))


def _summary_lines(memories: Iterator[MemoryItem]) -> Iterator[str]:
    for memory in memories:
        if memory.role == "user":
            yield f"- {memory.said_by or 'user'}: {shorten_text(' '.join(memory.text.split()), _MAX_SUMMARY_LINE)}"


def shorten_text(text: str, length: int) -> str:
    """Shorten a text to this many characters; a shortened one ends with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
