"""The harness is quick enough for a test of each flow: 200 tests in 10 s of processor time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness

FLOWS = 200
MAX_CPU_S = 10.0
MAX_IDLE_S = 20.0


def a_team() -> list[Agent]:
    """Make two agents: the first fails once and is tried again, the second answers the first."""
    first, second = Agent("first"), Agent("second")
    failed: list[str] = []

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


def run_flow(a_message: Callable[..., TextMessageEvent]) -> None:
    with EventTestHarness(a_team()) as harness:
        assert harness.send_event_and_wait(a_message(), "message.answered").hops == 2


def test_a_flow_costs_less_than_its_share_of_the_time_of_200(a_message):
    """By processor time, and with a margin, because other tests run beside this one."""
    flows = 10
    run_flow(a_message)  # imports what the harness needs
    began = time.process_time()

    for _ in range(flows):
        run_flow(a_message)

    assert time.process_time() - began < MAX_CPU_S / FLOWS * flows * 4


@pytest.mark.long
def test_200_flows_with_a_harness_each_take_less_than_20_s(a_message):
    """Of an idle machine. Other tests run beside this one, so it may take four times as long."""
    began = time.monotonic()

    for _ in range(FLOWS):
        run_flow(a_message)

    took_s = time.monotonic() - began
    print(f"{FLOWS} flows took {took_s:.1f} s")  # noqa: T201 - for whoever runs it alone: pytest -s
    assert took_s < MAX_IDLE_S * 4
