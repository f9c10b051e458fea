"""The agents of the simulation: what each says follows from the event alone, so a run can be held against it."""

from __future__ import annotations

from collections.abc import Iterator

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.events.errors import ToolFailed
from petiole.tasks import Agent

FLAKY_SHARE = 0.3
"""Of how many events `picky`'s first run fails, and another would not."""

plain, ordered, picky, talker, silent = (Agent(name) for name in ("plain", "ordered", "picky", "talker", "silent"))

FAILS = "fail"
"""A text that holds this word is what `picky` and `ordered` cannot handle."""

failed: set[str] = set()
"""Events whose first run has failed as it was told to. A run of a seed empties it."""

began: list[tuple[str, str]] = []
"""Runs of the ordered handler: stream and event, in the order in which they began. A run of a seed empties it."""


@plain.on("input.*")
def note(event: TextMessageEvent) -> Event:
    """Say one thing."""
    return _said(event, "message.noted")


@ordered.on("input.*", ordered=True)
def tell(event: TextMessageEvent) -> Event:
    """Say one thing, in the order of the stream."""
    began.append((event.stream_id, event.event_id))
    _refuse(event, "tell")
    return _said(event, "message.told")


@picky.on("input.*")
def judge(event: TextMessageEvent) -> Event:
    """Say one thing, or fail."""
    _refuse(event, "judge")
    if "flaky" in event.content.text and event.event_id not in failed:
        failed.add(event.event_id)
        raise ToolFailed("judge", "it was told to, once")
    return _said(event, "message.judged")


@talker.on("input.*")
def repeat(event: Event) -> Iterator[Event]:
    """Say two things."""
    yield _said(event, "message.first")
    yield _said(event, "message.second")


@silent.on("message.noted")
def hear(event: Event) -> None:
    """Say nothing, of what another agent said."""


AGENTS = (plain, ordered, picky, talker, silent)

SAYS = {"plain.note": 1, "ordered.tell": 1, "picky.judge": 1, "talker.repeat": 2, "silent.hear": 0}
"""How many events each subscription answers one with."""


def is_refused(text: str, subscription: str) -> bool:
    """Tell whether a subscription fails at a text."""
    return f"{FAILS} {subscription.partition('.')[2]}" in text


def _refuse(event: TextMessageEvent, function: str) -> None:
    if is_refused(event.content.text, f".{function}"):
        raise ToolFailed(function, "it was told to")


def _said(event: Event, topic: str) -> Event:
    return event.caused(MessageEvent, event_type=topic)
