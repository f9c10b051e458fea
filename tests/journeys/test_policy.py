"""Events that can be trusted: who may publish and hear what, and what happens to whoever tries without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from petiole.events import Event, MessageEvent
from petiole.events.catalog.agent import AgentFailedEvent, AgentFailure
from petiole.events.catalog.dead_letters import CompletedImport, DeadLetterImportCompletedEvent
from petiole.events.catalog.llm import GeneratedResponse, ResponseGeneratedEvent
from petiole.events.catalog.operator import OperatorAction, OperatorActionEvent
from petiole.events.catalog.system import SystemStoppingEvent
from petiole.events.catalog.tools import ApprovalExpiredEvent, ApprovalRequest
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import UsageError
from petiole.events.subscriptions import Subscription
from petiole.tasks import Agent, Context, EventBus, RetryPolicy, dead_letters, replay_history, report
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK
from petiole.tasks.operations.audit import record_action
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli import petiole
from tests.journeys.dead_letters.shop import a_letter
from tests.support.apps import a_bus, subscribe
from tests.support.errors import has_code
from tests.support.inside import Inside

Document = dict[str, Any]

A_CALL = ApprovalRequest(
    approval_id="a-1", call_id="c-1", tool="order", fingerprint="f" * 64, expires_at=datetime(2100, 1, 1, tzinfo=UTC)
)

POLICY = """
[[publish]]
topics = ["message.*"]
publishers = ["shop", "echo"]
signed = true

[[hear]]
topics = ["message.secret.*"]
agents = ["vault", "test"]
"""

SECRET = "not-a-real-secret-and-long-enough-{}"
PUBLISHERS = ("petiole", "operator", "shop", "echo", "other")


def keys_of(*publishers: str, ids: tuple[str, ...] = ("now",)) -> str:
    """Write the keys of publishers; the first signs."""
    tables = (
        f"[{name}]\n" + "".join(f'"{key}" = "{SECRET.format(name + key)}"\n' for key in ids) for name in publishers
    )
    return "\n".join(tables)


@pytest.fixture
def trusted(tmp_path: Path) -> Callable[..., Settings]:
    """Return a builder of settings with the policy and with keys."""

    def build(publisher: str | None = "shop", keys: str = keys_of(*PUBLISHERS), **others: object) -> Settings:
        policy, file = tmp_path / "policy.toml", tmp_path / "keys.toml"
        policy.write_text(POLICY)
        file.write_text(keys)
        file.chmod(0o600)
        return Settings.model_validate({"publisher": publisher, "policy": str(policy), "signing_keys": file} | others)

    return build


@pytest.fixture
def signed(trusted) -> Iterator[EventTestHarness]:
    with EventTestHarness(settings=trusted()) as harness:
        yield harness


def an_order(number: int = 1, **content: object) -> MessageEvent:
    return MessageEvent.model_validate(
        {"event_type": "message.order", "stream_id": "s", "content": {"parameters": {"number": number, **content}}}
    )


def number_of(event: Event) -> int:
    assert isinstance(event, MessageEvent)
    return int(str(event.content.parameters["number"]))


def hearing(harness: EventTestHarness, pattern: str = "message.*") -> list[Event]:
    heard: list[Event] = []

    def handle(event: Event) -> None:
        heard.append(event)

    harness.subscribe(pattern, handle)
    return heard


def send(harness: EventTestHarness, document: Document, task: str = "test.handle", queue: str = "test") -> None:
    """Send a message past the bus, as whoever has the broker's password."""
    harness.bus.start()
    harness.bus.app.send_task(task, args=(document,), queue=queue, serializer="json", ignore_result=True)


def alarms(harness: EventTestHarness) -> list[Event]:
    return [each for each in harness.published_events() if each.event_type == "error.event_forbidden"]


# Without any setting


def test_a_service_publishes_nothing_that_only_the_system_may_say():
    said = [
        SystemStoppingEvent(),
        ResponseGeneratedEvent(stream_id="anothers", content=GeneratedResponse(text="Pay here", model="mine")),
        OperatorActionEvent(content=OperatorAction(operator="ada", role="admin", action="agent.stop", target="memory")),
        DeadLetterImportCompletedEvent(content=CompletedImport(operator="ada", imported=1, known=0)),
        AgentFailedEvent(content=AgentFailure(agent="memory", error_type="ValueError", error="no")),
        ApprovalExpiredEvent(stream_id="anothers", content=A_CALL),
    ]
    with EventBus() as bus:
        for event in said:
            with pytest.raises(UsageError, match=r"'service' may not publish it.*PETIOLE_PUBLISHER") as refused:
                bus.publish(event)
            assert refused.value.code == "publish_forbidden"
            with pytest.raises(UsageError, check=has_code("publish_forbidden")):
                bus.publish.delay(event)


def test_a_handler_shuts_the_system_down_only_if_the_policy_names_it(harness, a_message):
    agent = Agent("mine")

    @agent.on("input.*")
    def panic(event: Event) -> None:
        report("a mere warning")
        report("stop everything", "critical")

    harness.add(agent)
    harness.send_through(a_message())

    (letter,) = harness.dead_letters()
    assert (letter.error_type, letter.cause) == ("publish_forbidden", "permanent")
    assert [each.event_type for each in harness.published_events()].count("error.reported") == 1


def test_a_forged_event_ends_as_a_dead_letter_and_many_as_one_alarm(harness):
    heard = hearing(harness, "system.*")

    for _ in range(3):
        send(harness, SystemStoppingEvent().model_dump(mode="json"))
        send(harness, SystemStoppingEvent().model_dump(mode="json"), PUBLISH_TASK, PUBLISH_QUEUE)
    harness._wait_until(lambda: len(harness.dead_letters()) == 6, "six letters", 20)
    harness.publish(SystemStoppingEvent())
    harness._wait_until(lambda: len(heard) == 1, "the genuine one", 20)

    assert {letter.cause for letter in harness.dead_letters()} == {"forbidden"}
    alarm = harness.expect("error.event_forbidden", within=20)
    assert alarms(harness) == [alarm]
    assert "system.stopping" in alarm.content.message
    assert alarm.content.severity == "warning"
    assert not [each for each in harness.published_events() if each.event_type == "error.dead_lettered"]


# With signatures


def a_signed_document(harness: EventTestHarness, event: Event) -> Document:
    harness.bus.publish(event)
    return copy.deepcopy(dict(Inside(harness).recorded()[-1].attributes))


def attacks(genuine: Document, other: Document) -> dict[str, Document]:
    content = {**genuine["content"], "parameters": {"number": 1_000_000}}
    unsigned = {name: value for name, value in genuine.items() if name != "signature"}
    mac = genuine["signature"].partition(":")[2]
    return {
        "unsigned": unsigned,
        "unsigned by nobody": {name: value for name, value in unsigned.items() if name != "publisher"},
        "altered content": {**genuine, "content": content},
        "altered topic": {**genuine, "event_type": "message.refund"},
        "altered stream": {**genuine, "stream_id": "anothers"},
        "replayed under another id": {**genuine, "event_id": other["event_id"]},
        "signature of another event": {**genuine, "signature": other["signature"]},
        "another publisher's name": {**genuine, "publisher": "other"},
        "unknown publisher": {**genuine, "publisher": "stranger"},
        "unknown key": {**genuine, "signature": f"never:{mac}"},
        "no MAC": {**genuine, "signature": "now:"},
        "a member more": {**genuine, "dataref": "https://example.com/content"},
    }


def test_whatever_was_not_signed_as_it_is_reaches_no_handler(signed):
    heard = hearing(signed)
    genuine, other = a_signed_document(signed, an_order(1)), a_signed_document(signed, an_order(2))
    signed._wait_until(lambda: len(heard) == 2, "the genuine ones", 20)
    forged = attacks(genuine, other)

    for document in forged.values():
        send(signed, document)
    signed._wait_until(lambda: len(signed.dead_letters()) == len(forged), "a letter of each", 30)

    assert len(heard) == 2
    assert {letter.cause for letter in signed.dead_letters()} == {"forbidden"}
    signed.expect("error.event_forbidden", within=20)
    assert len(alarms(signed)) == 1


def test_a_publisher_without_its_key_or_not_in_the_rule_is_refused_where_it_publishes(trusted):
    for publisher, keys in (
        ("shop", keys_of("petiole")),
        ("other", keys_of("petiole", "other")),
        (None, keys_of("petiole", "shop")),
    ):
        bus = EventBus(settings=trusted(publisher, keys))
        with pytest.raises(UsageError, check=has_code("publish_forbidden")):
            bus.publish(an_order())


def test_a_signature_holds_through_claim_check_redaction_delay_retry_and_publish_delay(trusted):
    settings, heard = trusted(claim_check_threshold_bytes=10_000), []
    with EventTestHarness(settings=settings) as harness:
        agent = Agent("test")

        @agent.on("message.*", retry=RetryPolicy(max_attempts=3, base=0.1))
        def handle(event: Event, context: Context) -> None:
            if context.attempt < 3:
                raise OSError("again")
            heard.append(number_of(event))

        harness.add(agent)
        secret = "My password is hunter2"
        harness.publish(an_order(1))
        harness.publish(an_order(2, text="x" * 50_000, number_of_floats=[1e16, 0.1, -0.0, 1e-7]))
        harness.publish(an_order(3, text=secret))
        harness.publish(an_order(4, text=secret + "ü" * 50_000), delay=3_600)
        harness.delay(an_order(5, text="ü\u2028\x00"))
        harness.publish(an_order(6), delay=7_200)
        harness.advance(8_000)

        assert harness.dead_letters() == []
        assert sorted(heard) == [1, 2, 3, 4, 5, 6]


def test_an_events_publisher_is_known_although_another_process_sent_it_when_it_was_due(signed):
    signed.publish(an_order(), delay=60)
    signed.advance(61)

    (recorded,) = Inside(signed).recorded()
    assert recorded.attributes["publisher"] == "shop"


def failing_once(harness: EventTestHarness) -> list[int]:
    handled: list[int] = []
    agent = Agent("test")

    @agent.on("message.*", retry=RetryPolicy(max_attempts=1))
    def handle(event: Event, context: Context) -> None:
        if not context.is_replay:
            raise OSError("not the first time")
        handled.append(number_of(event))

    harness.add(agent)
    return handled


def replay(harness: EventTestHarness, letter: DeadLetter) -> None:
    dead_letters.replay(dead_letters.DeadLetterQuery(ids=(letter.id,)), wait=True, bus=harness.bus)


def test_replays_keep_the_publishers_signature_and_an_edited_letter_has_the_operators(trusted):
    with EventTestHarness(settings=trusted()) as harness:
        handled = failing_once(harness)
        harness.publish(an_order(1, text="x" * 100_000))
        replay(harness, harness.expect_dead_letter())
        replay_history("test.handle", bus=harness.bus)
        harness._wait_until(lambda: handled == [1, 1], "both replays", 20)


def test_what_operators_did_is_signed_as_operator_whoever_the_process_is(signed):
    heard = hearing(signed, "operator.*")
    action = OperatorAction(operator="ada", role="admin", action="dead_letter.discarded", target="a-letter")
    Inside(signed).keep_dead_letter(a_letter("a-letter"))
    signed.bus.start()

    with record_action(signed.bus, action):
        dead_letters.discard(dead_letters.DeadLetterQuery(ids=("a-letter",)), bus=signed.bus)
    signed._wait_until(lambda: len(heard) == 1, "the record", 20)

    recorded = Inside(signed).history()[-2:]
    assert [each["event_type"] for each in recorded] == ["dead_letters.letter.discarded", "operator.action.recorded"]
    assert {each["publisher"] for each in recorded} == {"operator"}
    assert signed.dead_letters() == []


def test_a_forged_letter_stays_forbidden_until_an_operator_vouches_for_it(tmp_path, trusted):
    operator = trusted("operator")
    (tmp_path / "policy.toml").write_text(POLICY.replace('"echo"]', '"operator"]'))
    with EventTestHarness(settings=operator) as harness:
        handled = failing_once(harness)
        send(harness, an_order(7).model_dump(mode="json"))
        forged = harness.expect_dead_letter()

        replay(harness, forged)
        assert harness.dead_letters()[-1].cause == "forbidden"

        replay(harness, dead_letters.edit(forged.id, dict(forged.document), bus=harness.bus))  # type: ignore[arg-type]
        assert handled == [7]


def test_a_key_is_replaced_without_a_pause(trusted):
    with EventTestHarness(settings=trusted(keys=keys_of(*PUBLISHERS, ids=("old",)))) as harness:
        document = a_signed_document(harness, an_order())

    for ids, is_accepted in ((("old", "new"), True), (("new", "old"), True), (("new",), False)):
        with EventTestHarness(settings=trusted(keys=keys_of(*PUBLISHERS, ids=ids))) as harness:
            heard = hearing(harness)
            send(harness, document)
            harness._wait_until(lambda: bool(heard or harness.dead_letters()), "an outcome", 20)  # noqa: B023
            assert bool(heard) is is_accepted


def test_no_key_is_shown(trusted, monkeypatch):
    settings = trusted()
    monkeypatch.setenv("PETIOLE_SIGNING_KEYS", str(settings.signing_keys))

    shown = CliRunner().invoke(petiole, ["config"]).output
    with EventBus(settings=settings) as bus:
        shown += repr(bus.trust.keys) + repr(vars(bus.settings)) + str(bus.settings)

    assert "not-a-real-secret" not in shown


@pytest.mark.parametrize(
    ("keys", "mode", "reason"),
    [
        ("[shop]\nk = 'short'\n", 0o600, "shop.k is no text of at least 32 characters"),
        ('[shop]\nk = "not-a-real-secret-and-long-enough\n', 0o600, "it is not TOML .at line 2"),
        ("[Shop]\nk = 'x'\n", 0o600, "'Shop' is no publisher's name"),
        ("[shop]\n", 0o600, "has no key; add a line"),
        (keys_of("shop"), 0o644, "other users of this machine may read it; run: chmod o="),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_refused_without_showing_one(tmp_path, keys, mode, reason):
    file = tmp_path / "keys.toml"
    file.write_text(keys)
    file.chmod(mode)

    with pytest.raises(UsageError, match=reason) as refused, EventBus(settings=Settings(signing_keys=file)) as bus:
        bus.publish(an_order())

    assert "not-a-real" not in str(refused.value)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("[[publish]\n", "is not TOML: .*line 1"),
        (
            '[[publish]]\ntopics = ["a"]\npublishers = ["b"]\n\n[[publish]]\ntopics = ["A b"]\n',
            "line 6: publish.1.topics",
        ),
        ('[[hear]]\ntopics = ["a"]\n', "line 1: hear.0.agents: Field required"),
        ('[[publish]]\ntopics = ["a"]\npublishers = ["@shop"]\n', "line 3: .*the group '@shop' is not defined"),
        ('publish = "all"\n', "line 1: publish"),
        ("[[listen]]\n", "line 1: listen"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_line_and_the_reason(tmp_path, policy, reason):
    (tmp_path / "policy.toml").write_text(policy)

    bus = EventBus(settings=Settings(policy=str(tmp_path / "policy.toml")))
    with pytest.raises(UsageError, match=reason) as refused:
        bus.publish(an_order())

    assert refused.value.code == "invalid_policy"


# Hearing, and real workers

SPY = """
from petiole.tasks import Agent
from petiole.events import Event

spy, echo = Agent("spy"), Agent("echo")

@spy.on("message.*")
def listen(event: Event) -> None: ...

@echo.on("message.order")
def repeat(event: Event) -> None:
    print(f"repeated-{event.content.parameters['number']}")
"""


def test_a_subscription_written_past_the_check_gets_nothing(clean_broker_url, trusted, inside):
    bus = a_bus(clean_broker_url, settings=trusted())
    subscribe(
        bus,
        Subscription(agent="spy", function="listen", patterns=("*",)),
        Subscription(agent="vault", function="keep", patterns=("message.secret.*",)),
    )

    sent = bus.publish(an_order().model_copy(update={"event_type": "message.secret.plan"}))

    assert sent.subscriptions == ("vault.keep",)
    assert inside.queue_depth("spy") == 0


def test_real_workers_hear_what_they_may_and_handle_what_was_signed(node, trusted, inside, eventually, tmp_path):
    settings = trusted()
    node.module("spying", SPY)
    node.environment.update(
        PETIOLE_AGENTS="spying", PETIOLE_POLICY=settings.policy, PETIOLE_SIGNING_KEYS=str(settings.signing_keys)
    )
    spy = node.start("celery", "-A", "workers", "worker", "-P", "solo", "-l", "INFO", "-Q", "spy")
    echo = node.worker("e", "-Q", "echo,publish")
    assert spy.wait(timeout=60) != 0
    assert "spy.listen may not subscribe to 'message.*'" in node.logs()
    eventually(lambda: "echo.repeat" in inside.subscriptions(), 60, node.logs)

    bus = a_bus(node.environment["PETIOLE_BROKER_URL"], settings=settings)
    bus.publish(an_order(1))
    bus.publish(an_order(2, text="My password is hunter2"))
    bus.publish.delay(an_order(3))
    stranger = a_bus(node.environment["PETIOLE_BROKER_URL"], settings=Settings(policy="none"))
    stranger.publish(an_order(4))
    stranger.publish.delay(an_order(5))
    eventually(lambda: len(inside.dead_letters()) == 2, 60, node.logs)

    eventually(lambda: all(f"repeated-{number}" in node.logs() for number in (1, 2, 3)), 30, node.logs)
    assert "repeated-4" not in node.logs()
    assert {letter.cause for letter in inside.dead_letters()} == {"forbidden"}
    assert echo.poll() is None
