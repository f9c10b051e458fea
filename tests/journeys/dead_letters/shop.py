"""A shop whose only handler fails for some messages, and what is done to its dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from petiole.events import MessageEvent
from petiole.events.dead_letter import DeadLetter
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery
from petiole.tasks.testing import EventTestHarness
from tests.support.inside import Inside

noted: list[tuple[str, bool, str]] = []
broken: set[str] = set()


def settle(harness: EventTestHarness) -> None:
    """Wait until nothing is under way."""
    harness.send_through(MessageEvent(event_type="message.unheard", stream_id="nobody"))


def states(harness: EventTestHarness) -> dict[str, int]:
    return dict(Inside(harness).dead_letter_states())


def replayed(harness: EventTestHarness, letters: DeadLetterQuery, **options: Any) -> dead_letters.DeadLetterReplay:
    done = dead_letters.replay(letters, bus=harness.bus, **options)
    settle(harness)
    return done


def said(harness: EventTestHarness, topic: str) -> list[Any]:
    return [event for event in harness.published_events() if event.event_type == topic]


def a_letter(letter_id: str = "a-letter", **fields: object) -> DeadLetter:
    return DeadLetter.model_validate(
        {
            "id": letter_id,
            "delivery_id": "a-delivery",
            "subscription": "shop.offer",
            "queue": "shop",
            "cause": "failed",
            "error_type": "RuntimeError",
            "error": "no",
            "traceback": "…",
            "fingerprint": "f00",
            "attempts": (),
            "at": datetime.now(UTC),
            "document": {"event_type": "input.message.received", "stream_id": "s"},
        }
        | fields
    )
