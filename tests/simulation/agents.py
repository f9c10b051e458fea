"""The agents of the simulation: what each says follows from the event alone, so a run can be held against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.events.errors import ToolFailed
from petiole.tasks import Agent

plain, ordered, picky, talker, silent, deadly = map(Agent, ("plain", "ordered", "picky", "talker", "silent", "deadly"))
narrow = Agent("narrow", capacity=2, overflow="drop_oldest")


@dataclass
class Stage:
    """What handlers do beside saying something; a run of a seed sets it."""

    begin: Callable[[Event], None] = lambda _: None
    crash: Callable[[Event], None] = lambda _: None
    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a handler ran for an event, by text and handler."""


stage = Stage()


@plain.on("input.*")
def note(event: TextMessageEvent) -> Event:
    """Say one thing."""
    stage.begin(event)
    return _said(event, "message.noted")


@ordered.on("input.*", ordered=True)
def tell(event: TextMessageEvent) -> Event:
    """Say one thing, in the order of the stream, or fail."""
    stage.begin(event)
    _fail(event, "tell")
    return _said(event, "message.told")


@picky.on("input.*")
def judge(event: TextMessageEvent) -> Event:
    """Say one thing, or fail."""
    stage.begin(event)
    _fail(event, "judge")
    return _said(event, "message.judged")


@talker.on("input.*")
def repeat(event: Event) -> Iterator[Event]:
    """Say two things."""
    yield _said(event, "message.first")
    stage.begin(event)
    yield _said(event, "message.second")


@silent.on("message.noted")
def hear(event: Event) -> None:
    """Say nothing, of what another agent said."""
    stage.begin(event)


@narrow.on("message.judged")
def squeeze(event: Event) -> Event:
    """Say one thing, of those that its queue had room for."""
    stage.begin(event)
    return _said(event, "message.squeezed")


@deadly.on("input.*")
def kill(event: TextMessageEvent) -> Event:
    """Say one thing, or crash the process."""
    stage.begin(event)
    if "kill" in event.content.text:
        stage.crash(event)
    return _said(event, "message.survived")


AGENTS = (plain, ordered, picky, talker, silent, narrow, deadly)

SAYS = {
    "plain.note": 1,
    "ordered.tell": 1,
    "picky.judge": 1,
    "talker.repeat": 2,
    "silent.hear": 0,
    "narrow.squeeze": 1,
    "deadly.kill": 1,
}
"""How many events each subscription answers one with."""


def _fail(event: TextMessageEvent, function: str) -> None:
    """Fail as the event's text says: `judge:permanent:2` fails for good in the first two runs."""
    for word in event.content.text.split():
        name, _, rest = word.partition(":")
        if name != function:
            continue
        kind, _, count = rest.partition(":")
        stage.runs[event.event_id, function] += 1
        if stage.runs[event.event_id, function] <= int(count):
            raise ToolFailed(function, "it was told to") if kind == "permanent" else OSError("it was told to")


def _said(event: Event, topic: str) -> Event:
    return event.caused(MessageEvent, event_type=topic)
