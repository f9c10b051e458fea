"""A large system, written into the stores: dead letters, agents, and one long conversation."""

from __future__ import annotations

from datetime import UTC, datetime

from petiole.events import TextContent, TextMessageEvent
from petiole.events.catalog.message import MessageEvent
from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from tests.support.inside import Inside

GROUP = "agent=agent1&cause=failed&fingerprint=1"
LARGE_SYSTEM_PAGES = (
    "/", "/board", "/failures", f"/letters?{GROUP}", "/letter?id=letter1", "/conversations", "/catalog", "/asyncapi",
    "/why",
)  # fmt: skip
CONTENT_LENGTH = 20_000
"""Of each event of the long conversation: ordinary for a model's, and too short to be stored apart."""
CONVERSATION_PAGES = ("/conversation?id=long", "/conversation?id=long&page=1")


def fill_large_system(bus: EventBus, letters: int, agents: int, events: int) -> None:
    """Write letters of 20 agents, many agents with an event each, and a conversation `long` of so many events."""
    inside = Inside(bus)
    inside.subscribe([Subscription(agent=f"agent{n}", function="act", patterns=("message.*",)) for n in range(agents)])
    _write_letters(inside, letters)
    bus.publish(MessageEvent(event_type="message.echo", stream_id="short"))
    first = TextMessageEvent(stream_id="long", content=TextContent(text="x" * CONTENT_LENGTH))
    bus.publish(first)
    for start in range(1, events, 100):
        bus.publish_many(
            first.caused(TextMessageEvent, content=first.content) for _ in range(start, min(events, start + 100))
        )


def _write_letters(inside: Inside, count: int) -> None:
    at = datetime.now(UTC)
    attempt = FailedAttempt(at=at, worker="w", error_type="ValueError", error="no")
    event = TextMessageEvent(stream_id="s", content=TextContent(text="x" * 200))
    letter = DeadLetter(
        id="letter0", delivery_id="d", subscription="agent0.act", queue="agent0", cause="failed",
        error_type="ValueError", error="no", traceback="t" * 1_000, fingerprint="0", attempts=(attempt,), at=at,
        document=event.model_dump(mode="json"),
    )  # fmt: skip
    for start in range(0, count, 1_000):
        inside.import_letters(
            letter.model_copy(
                update={"id": f"letter{n}", "subscription": f"agent{n % 20}.act", "fingerprint": str(n % 20)}
            )
            for n in range(start, min(count, start + 1_000))
        )
