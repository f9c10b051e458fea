"""What an operator does at the command line is recorded: who, what, why, and whether it was refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.catalog.tools import ApprovalRequest, ApprovalRequestedEvent
from petiole.events.errors import Permanent
from petiole.events.subscriptions import Subscription
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery
from petiole.tasks.resilience.circuit_breaker import CircuitCall
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.tasks.testing import EventTestHarness
from petiole.workers.tools import approvals
from tests.journeys.dead_letters.shop import a_letter
from tests.support.apps import a_bus, command_line
from tests.support.inside import Inside

CALL = ApprovalRequest(
    approval_id="a-1", call_id="c-1", tool="order", fingerprint="f" * 64, expires_at=datetime(2100, 1, 1, tzinfo=UTC)
)


def refuse(_: Event) -> None:
    raise Permanent("no")


@pytest.fixture
def shop(harness: EventTestHarness) -> EventTestHarness:
    """A system with an agent, a breaker, an approval and a dead letter."""
    harness.subscribe("input.*", refuse, agent="shop")
    harness.publish(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))
    harness.bus.wait()
    with CircuitCall(harness.bus, "stock", CircuitThresholds(3, timedelta(seconds=9), timedelta(seconds=9))):
        pass
    approvals.open_approval(ApprovalRequestedEvent(stream_id="s", content=CALL), bus=harness.bus)
    return harness


@pytest.mark.parametrize(
    ("command", "action", "outcome"),
    [
        ("agents pause shop", "agent.pause", "done"),
        ("agents stop shop", "agent.stop", "done"),
        ("agents resume shop", "agent.resume", "done"),
        ("replay shop.refuse", "history.replayed", "done"),
        ("breakers open stock", "circuit.open", "done"),
        ("breakers close stock", "circuit.closed", "done"),
        ("breakers open stok", "circuit.open", "refused"),
        ("approvals grant a-1", "approval.grant", "done"),
        ("approvals deny a-1", "approval.deny", "done"),
        ("approvals deny a-2", "approval.deny", "refused"),
        ("dead-letters edit LETTER --set content.text=Hi", "dead_letter.edited", "done"),
        ("dead-letters edit LETTER --set event_id=1", "dead_letter.edited", "refused"),
        ("dead-letters replay LETTER", "dead_letters.replayed", "done"),
        ("dead-letters discard LETTER --yes", "dead_letters.discarded", "done"),
        ("parked release", "deliveries.released", "done"),
        ("subscriptions withdraw shop.refuse --drain", "subscription.withdrawn", "done"),
        ("memory forget ada", "memory.forgotten", "done"),
    ],
)
def test_a_command_that_changes_something_is_recorded_with_who_and_why(shop, monkeypatch, command, action, outcome):
    arguments = command.replace("LETTER", shop.dead_letters()[0].id).split()

    result = command_line(shop.bus, monkeypatch)(*arguments, "--operator", "ada", "--reason", "a test")

    assert (result.exit_code == 0) is (outcome == "done"), result.output
    (recorded,) = Inside(shop).history("operator.action.recorded")
    content = recorded["content"]
    assert [content[name] for name in ("operator", "action", "reason", "outcome")] == ["ada", action, "a test", outcome]
    assert bool(content["error"]) is (outcome == "refused")


def test_a_full_subscriber_of_the_audit_misses_it_and_the_history_and_the_others_do_not(clean_broker_url, inside):
    watchers = (
        Subscription(agent="full", function="hear", patterns=("dead_letters.*",), capacity=1, overflow="reject"),
        Subscription(agent="auditor", function="hear", patterns=("dead_letters.*",)),
    )
    bus = a_bus(clean_broker_url, *watchers)
    letters = [a_letter(f"letter {number}") for number in range(3)]
    for letter in letters:
        inside.keep_dead_letter(letter)

    for letter in letters:
        assert dead_letters.discard(DeadLetterQuery(ids=(letter.id,)), operator="ada", bus=bus) == 1

    assert [inside.queue_depth(agent) for agent in ("full", "auditor")] == [1, 3]
    assert inside.topics() == ["dead_letters.letter.discarded"] * 3
