"""The harness is quick enough for a test of each flow: 200 tests in 20 s."""

from __future__ import annotations

import pytest

from petiole.events import Event, MessageEvent
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness

FLOWS = 200


def a_team() -> list[Agent]:
    """Make two agents: the first fails once and is tried again, the second answers the first."""
    first, second, failed = Agent("first"), Agent("second"), []

    @first.on("input.*")
    def ask(event: Event) -> MessageEvent:
        if not failed:
            failed.append(event.event_id)
            raise ConnectionError("away")
        return event.caused(MessageEvent, event_type="message.asked")

    @second.on("message.asked")
    def answer(event: Event) -> MessageEvent:
        return event.caused(MessageEvent, event_type="message.answered")

    return [first, second]


@pytest.mark.long
@pytest.mark.parametrize("number", range(FLOWS))
def test_a_flow_with_a_retry_ends_in_its_answer(number, a_message):
    with EventTestHarness(a_team()) as harness:
        answer = harness.send_event_and_wait(a_message(str(number)), "message.answered")

    assert answer.hops == 2
