"""Tool calls that somebody grants or denies before they run."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from click.testing import Result
from redis import Connection

from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.catalog.tools import ApprovalGrantedEvent, ApprovalRequest, ApprovalRequestedEvent, ToolFailedEvent
from petiole.events.errors import UsageError
from petiole.events.ids import new_event_id
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import tools as tools_agent
from petiole.workers.state import team_state
from petiole.workers.tools import ToolRegistry, approvals
from tests.support.apps import a_bus, command_line, serve_tools
from tests.support.errors import has_code
from tests.support.inside import Inside


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list of what the tool `order`, which needs approval, was run with."""
    registry, ran = ToolRegistry(), list[str]()
    serve_tools(registry, monkeypatch)

    @registry.add(needs_approval=True)
    def order(article: str, amount: int = 1) -> str:
        """Order something."""
        ran.append(article)
        return f"{article} is ordered"

    @registry.add
    def look(article: str) -> str:
        """Look for something."""
        return f"there is {article}"

    return ran


@pytest.fixture
def team(ran: list[str]) -> Iterator[EventTestHarness]:
    with EventTestHarness([tools_agent.agent]) as harness:
        yield harness


def a_call(article: str = "tea", tool: str = "order", call_id: str = "c-1", **arguments: Any) -> ToolCall:
    return ToolCall(call_id=call_id, tool=tool, arguments={"article": article} | arguments)


def a_request(*calls: ToolCall) -> ToolsRequestedEvent:
    return ToolsRequestedEvent(stream_id="s", content=ToolsRequest(calls=calls))


def asked(team: EventTestHarness, *calls: ToolCall) -> ApprovalRequestedEvent:
    """Ask for calls, and return how the first one that needs it is asked to be granted."""
    team.publish(a_request(*(calls or (a_call(),))))
    event = team.expect("tools.approval.requested")
    assert isinstance(event, ApprovalRequestedEvent)
    return event


def kinds(team: EventTestHarness) -> list[str]:
    return [
        each.event_type.removeprefix("tools.") for each in team.published_events() if each.event_type[:5] == "tools"
    ]


def failure(team: EventTestHarness) -> ToolFailedEvent:
    event = team.expect("tools.execution.failed")
    assert isinstance(event, ToolFailedEvent)
    return event


def test_a_call_that_is_granted_runs_and_who_granted_it_is_told(team, ran):
    approval = asked(team).content

    approvals.grant(approval.approval_id, by="ada", bus=team.bus)

    assert team.expect("tools.execution.completed").content.value == "tea is ordered"
    assert ran == ["tea"]
    granted = next(e for e in team.published_events() if isinstance(e, ApprovalGrantedEvent))
    assert (granted.content.by, granted.content.call_id, granted.content.arguments) == (
        "ada",
        "c-1",
        {"article": "tea"},
    )
    assert kinds(team) == [
        "execution.requested",
        "approval.requested",
        "approval.granted",
        "execution.started",
        "execution.completed",
    ]


def test_many_approvals_are_found_in_few_round_trips_the_newest_first(clean_broker_url, monkeypatch):
    send, sent = Connection.send_packed_command, list[object]()
    with a_bus(clean_broker_url) as bus:
        for number in range(1_200):
            call = ApprovalRequest(
                approval_id=f"a-{number}",
                call_id="c",
                tool="order",
                fingerprint="f" * 64,
                expires_at=datetime(2100, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
            )
            approvals.open_approval(ApprovalRequestedEvent(stream_id="s", content=call), bus=bus)

        def count(*args, **options):
            sent.append(args)
            send(*args, **options)

        monkeypatch.setattr(Connection, "send_packed_command", count)

        found = [approval.id for approval in approvals.find_approvals(bus=bus)]

    assert len(set(found)) == 1_200
    assert found[0] in {f"a-{number}" for number in range(1_190, 1_200)}
    assert len(sent) < 50


def test_what_waits_holds_no_worker(team, ran):
    asked(team, a_call(call_id="waits"), a_call(tool="look", call_id="goes on"))

    completed = team.expect("tools.execution.completed")

    assert completed.content.call_id == "goes on"
    assert ran == []


def test_a_call_that_is_denied_has_failed_with_the_reason(team, ran):
    approval = asked(team).content

    approvals.deny(approval.approval_id, by="ada", reason="too dear", bus=team.bus)

    assert failure(team).content.error == "order was not run: ada denied approval: too dear"
    assert (ran, team.dead_letters()) == ([], [])


def test_a_call_that_nobody_decides_has_failed_at_the_deadline(team, ran):
    events = team.send_through(a_request(a_call()))

    assert [each.event_type for each in events[-2:]] == ["tools.approval.expired", "tools.execution.failed"]
    assert failure(team).content.error_type == "approval_expired"
    assert (ran, team.dead_letters()) == ([], [])


def test_a_decision_after_the_deadline_is_refused(ran, monkeypatch):
    monkeypatch.setenv("PETIOLE_APPROVAL_TIMEOUT_S", "0.001")
    with EventTestHarness([tools_agent.agent]) as team:
        approval = asked(team).content

        with pytest.raises(UsageError, check=has_code("approval_decided"), match="expired"):
            approvals.grant(approval.approval_id, by="ada", bus=team.bus)

        assert failure(team).content.error_type == "approval_expired"
        assert ran == []


def test_wrong_arguments_bother_nobody(team, ran):
    events = team.send_through(a_request(a_call(number="two")))

    assert "argument 'number'" in failure(team).content.error
    assert "tools.approval.requested" not in [each.event_type for each in events]


def test_of_several_operators_one_decides_and_the_others_are_told_who(team, ran):
    outcomes: Counter[str] = Counter()
    for number in range(6):
        approval = asked(team, a_call(f"tea {number}", call_id=f"c-{number}")).content
        at_once = threading.Barrier(4)

        def decide(by: str, act: Callable[..., object], approval_id: str, at_once: threading.Barrier) -> None:
            at_once.wait(timeout=10)
            try:
                act(approval_id, by=by, bus=team.bus)
            except UsageError as decided:
                outcomes["told" if f"by {by};" not in str(decided) else "told of itself"] += 1
            else:
                outcomes[act.__name__] += 1

        operators = [
            threading.Thread(target=decide, args=(f"operator {n}", act, approval.approval_id, at_once))
            for n, act in enumerate((approvals.grant, approvals.deny, approvals.grant, approvals.deny))
        ]
        for each in operators:
            each.start()
        for each in operators:
            each.join(timeout=10)

    team.send_through(a_request(a_call(tool="look")))
    assert outcomes["told"] == 18
    assert outcomes["grant"] + outcomes["deny"] == 6
    assert len(ran) == len(set(ran)) == outcomes["grant"]
    told = Counter(kinds(team))
    assert (told["approval.granted"], told["approval.denied"]) == (outcomes["grant"], outcomes["deny"])
    assert told["execution.failed"] == outcomes["deny"]


def test_granting_again_by_the_same_changes_nothing(team, ran):
    approval = asked(team).content

    for _ in range(3):
        approvals.grant(approval.approval_id, by="ada", bus=team.bus)

    team.send_through(a_request(a_call(tool="look", call_id="c-2")))
    assert ran == ["tea"]
    assert kinds(team).count("approval.granted") == 1


def test_a_grant_of_other_arguments_runs_nothing_and_the_true_one_still_does(team, ran):
    request = asked(team)
    approval = request.content
    forged = {**approval.model_dump(), "arguments": {"article": "a car"}, "by": "mallory"}
    approvals.grant(approval.approval_id, by="ada", bus=team.bus)

    team.publish(ApprovalGrantedEvent.model_validate({"stream_id": "s", "content": forged}))
    team.expect("tools.execution.completed")
    team.expect_dead_letter()

    assert ran == ["tea"]
    (letter,) = team.dead_letters()
    assert letter.error_type == "approval_mismatch"
    assert "differs from the decision in content, correlation_id, event_id" in letter.error


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"},
        {"correlation_id": "another flow"},
        {"stream_id": "another stream"},
        {"context": {"user_id": "mallory"}},
        {"content": {"call_id": "c-2"}},
        {"content": {"arguments": {"article": "tea", "amount": True}}},
        {"content": {"by": "mallory"}},
        {"content": {"expires_at": "2099-01-01T00:00:00Z"}},
    ],
    ids=lambda changed: next(iter(changed.get("content", changed))),
)
@pytest.mark.parametrize("has_its_own_id", [True, False], ids=["another event id", "same event id"])
def test_a_grant_runs_its_own_call_once_however_it_is_published_again(team, ran, changed, has_its_own_id):
    approval = asked(team, a_call(amount=1)).content
    approvals.grant(approval.approval_id, by="ada", bus=team.bus)
    team.expect("tools.execution.completed")
    granted = next(e for e in team.published_events() if isinstance(e, ApprovalGrantedEvent))
    document = granted.model_dump(mode="json")
    content = document["content"] | changed.get("content", {})
    identity = {"event_id": new_event_id()} if has_its_own_id else {}

    team.advance(0)  # until what was published has ended
    inside = Inside(team)
    inside.forget_publications()
    inside.forget_handled()
    team.publish(ApprovalGrantedEvent.model_validate(document | changed | {"content": content} | identity))

    assert team.expect_dead_letter().error_type == "approval_mismatch"
    assert ran == ["tea"]
    assert kinds(team).count("execution.completed") == 1


@pytest.mark.parametrize("state", ["denied", "expired"])
def test_a_decision_fails_no_other_call_when_it_is_published_again(team, ran, state):
    approval = asked(team).content
    if state == "denied":
        approvals.deny(approval.approval_id, by="ada", bus=team.bus)
    failure(team)
    decision = next(e for e in team.published_events() if e.event_type == f"tools.approval.{state}")

    team.publish(decision.model_copy(update={"event_id": new_event_id(), "stream_id": "another"}))

    assert team.expect_dead_letter().error_type == "approval_mismatch"
    assert kinds(team).count("execution.failed") == 1


def test_a_grant_is_forgotten_before_the_record_that_its_call_has_run(team, ran):
    approval = asked(team).content
    approvals.grant(approval.approval_id, by="ada", bus=team.bus)
    team.expect("tools.execution.completed")

    inside = Inside(team)
    operation_kept_ms = min(inside.operations_kept_ms())
    assert 0 < inside.approval_kept_ms(approval.approval_id) <= operation_kept_ms


def test_a_grant_that_nobody_gave_runs_nothing(team, ran):
    approval = asked(team).content

    team.publish(
        ApprovalGrantedEvent.model_validate({"stream_id": "s", "content": {**approval.model_dump(), "by": "mallory"}})
    )

    assert "it is pending, not granted" in team.expect_dead_letter().error
    assert ran == []


def test_a_grant_whose_teller_died_is_told_at_the_deadline(team, ran):
    approval = asked(team).content
    team_state(team.bus).approvals.decide(approval.approval_id, "granted", by="ada")

    team.send_through(a_request(a_call(tool="look", call_id="c-2")))

    assert ran == ["tea"]
    assert kinds(team).count("approval.granted") == 1


def test_the_same_call_asked_for_twice_is_asked_to_be_granted_once(team, ran):
    request = a_request(a_call())
    team.publish(request)
    team.publish(request.model_copy(update={"event_id": "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"}))

    team.send_through(a_request(a_call(tool="look")))

    assert kinds(team).count("approval.requested") == 1


@pytest.fixture
def type_(team: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Give the command line of the harness's bus."""
    return partial(command_line(team.bus, monkeypatch), "approvals")


def test_an_operator_sees_what_waits_and_grants_it(team, ran, type_):
    approval = asked(team).content

    listed, shown = json.loads(type_("list", "--json").stdout), type_("show", approval.approval_id).stdout

    assert [(each["approval_id"], each["state"]) for each in listed] == [(approval.approval_id, "pending")]
    assert '{"article": "tea"}' in shown
    assert approval.fingerprint in shown
    assert "    order {" in type_("list").stdout

    granted = type_("grant", approval.approval_id, "--operator", "ada")

    assert granted.exit_code == 0
    assert "ada" in granted.stdout
    assert team.expect("tools.execution.completed").content.value == "tea is ordered"
    assert "no approval is pending" in type_("list").stdout
    assert [each["by"] for each in json.loads(type_("list", "--state", "granted", "--json").stdout)] == ["ada"]


def test_an_operator_denies_with_a_reason_and_cannot_take_it_back(team, ran, type_, monkeypatch):
    approval = asked(team).content
    monkeypatch.setenv("PETIOLE_OPERATOR", "ada")

    denied = json.loads(type_("deny", approval.approval_id, "--reason", "too dear", "--json").stdout)
    regretted = type_("grant", approval.approval_id)

    assert (denied["state"], denied["by"], denied["reason"]) == ("denied", "ada", "too dear")
    assert regretted.exit_code == 1
    assert "was already decided: denied by ada" in regretted.stderr
    assert "ada denied approval: too dear" in failure(team).content.error


def test_an_approval_that_is_none_is_refused(team, ran, type_):
    with pytest.raises(UsageError, check=has_code("unknown_approval")):
        approvals.get_approval("nothing", bus=team.bus)

    assert "no approval 'nothing' exists" in type_("grant", "nothing").stderr
