from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, NotConfigured, PublishOutcomeUnknown, StateStoreUnavailable
from petiole.tasks import EventBus, dead_letters, shadow_traffic
from petiole.tasks.operations.history_replay import replay_history
from petiole.tasks.patterns.idempotency import forget_call, mark_done
from petiole.tasks.publishing import claim_check
from petiole.tasks.sessions.session import open_session
from petiole.tasks.stores import connections
from petiole.tasks.stores.blobs import build_blob
from petiole.workers import cli
from tests.support.apps import a_bus, publish_once

NOWHERE = "redis://127.0.0.1:1/0"


def publish(bus: EventBus) -> object:
    return publish_once(bus, a_message())


def read_content(bus: EventBus) -> object:
    document = {"event_type": "input.audio.chunk", "dataref": build_blob({"data": "x"}).reference}
    return claim_check.restore_content(bus, document)


calls = pytest.mark.parametrize(
    "call",
    [
        publish,
        read_content,
        lambda bus: open_session("s", bus=bus),
        lambda bus: dead_letters.plan(dead_letters.DeadLetterQuery(), bus=bus),
        lambda bus: replay_history("shop.offer", bus=bus),
    ],
    ids=["publish", "content", "session", "dead letters", "replay"],
)

WAYS_WITH_STATE: dict[str, Callable[[EventBus], object]] = {
    "publish": lambda bus: bus.publish(a_message()),
    "publish.aio": lambda bus: asyncio.run(bus.publish.aio(a_message())),
    "publish_many": lambda bus: bus.publish_many([a_message()]),
    "publish later": lambda bus: bus.publish(a_message(), delay=60),
    "request": lambda bus: bus.request("get", responder="users"),
    "request.aio": lambda bus: asyncio.run(bus.request.aio("get", responder="users")),
}
WAYS = WAYS_WITH_STATE | {
    "publish.delay": lambda bus: bus.publish.delay(a_message()),
    "publish.delay later": lambda bus: bus.publish.delay(a_message(), delay=60),
}
ways_to_publish = pytest.mark.parametrize("call", WAYS.values(), ids=WAYS.keys())
reads = pytest.mark.parametrize(
    "call",
    [
        lambda bus: list(dead_letters.find_dead_letters(bus=bus)),
        lambda bus: dead_letters.get_dead_letter("one", bus=bus),
        lambda bus: dead_letters.group_dead_letters("cause", bus=bus),
        lambda bus: dead_letters.discard(dead_letters.DeadLetterQuery(), bus=bus),
        lambda bus: dead_letters.edit("one", {}, bus=bus),
        lambda bus: dead_letters.export_to(io.StringIO(), bus=bus),
        lambda bus: dead_letters.read_progress(["one"], bus=bus),
        lambda bus: dead_letters.wait_for_outcomes(["one"], 0.1, bus=bus),
        lambda bus: list(shadow_traffic.compare("shop.offer", bus=bus)),
        lambda bus: forget_call("charge", "one", bus=bus),
        lambda bus: mark_done("charge", "one", bus=bus),
    ],
    ids=["find", "get", "group", "discard", "edit", "export", "progress", "wait", "shadows", "forget", "mark done"],
)


def a_message() -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hi"))


@ways_to_publish
def test_a_broker_that_does_not_answer_is_told_alike_by_publish_delay_and_request(
    call: Callable[[EventBus], object],
) -> None:
    with pytest.raises(
        BrokerUnavailable, match=r"^the broker could not be reached while publishing .* PETIOLE_BROKER_URL$"
    ):
        call(a_bus(NOWHERE))


@ways_to_publish
def test_without_any_configuration_the_broker_is_named_alike_by_publish_delay_and_request(
    call: Callable[[EventBus], object],
) -> None:
    with pytest.raises(NotConfigured, match=r"^the broker is not configured: set PETIOLE_BROKER_URL"):
        call(a_bus())


@pytest.mark.parametrize("call", WAYS_WITH_STATE.values(), ids=WAYS_WITH_STATE.keys())
def test_a_state_store_that_does_not_answer_is_told_alike_by_all_that_need_it(
    call: Callable[[EventBus], object],
) -> None:
    told = r"^the state store could not be reached while publishing .* PETIOLE_STATE_URL$"
    with pytest.raises(StateStoreUnavailable, match=told):
        call(a_bus("memory://", state_url=NOWHERE))


@reads
def test_what_operators_call_names_the_state_store_that_does_not_answer(call: Callable[[EventBus], object]) -> None:
    with pytest.raises(StateStoreUnavailable, match=r"^the state store could not be reached .* PETIOLE_STATE_URL$"):
        call(a_bus("memory://", state_url=NOWHERE))


@calls
def test_an_outage_of_a_state_store_of_its_own_names_the_setting_of_the_state_store(
    call: Callable[[EventBus], object],
) -> None:
    bus = a_bus("memory://", state_url=NOWHERE)

    with pytest.raises(StateStoreUnavailable, match=r"^the state store could not be reached .* PETIOLE_STATE_URL$"):
        call(bus)


@calls
def test_an_outage_of_a_broker_that_is_the_state_store_too_names_the_setting_of_the_broker(
    call: Callable[[EventBus], object],
) -> None:
    bus = a_bus(NOWHERE)

    with pytest.raises(BrokerUnavailable, match=r"^the broker could not be reached .* PETIOLE_BROKER_URL$"):
        call(bus)


@pytest.mark.parametrize(
    ("state_url", "advice"), [(NOWHERE, "check PETIOLE_STATE_URL"), (None, "check PETIOLE_BROKER_URL")]
)
def test_a_command_names_the_setting_of_the_server_that_did_not_answer(
    monkeypatch: pytest.MonkeyPatch, state_url: str | None, advice: str
) -> None:
    monkeypatch.setattr("petiole.tasks.bus.default_bus", a_bus("redis://127.0.0.1:2/0", state_url=state_url))

    assert cli._error_text(RedisConnectionError("refused")).endswith(advice)


def test_more_threads_than_connections_publish_one_after_another(clean_broker_url: str) -> None:
    def connected() -> set[str]:
        return {client["id"] for client in bus.redis.client_list()}

    bus = a_bus(clean_broker_url, max_state_connections=2)
    of_others = connected()
    events = [TextMessageEvent(stream_id="s", content=TextContent(text=str(number))) for number in range(120)]

    with ThreadPoolExecutor(60) as pool:
        publications = list(pool.map(lambda event: publish_once(bus, event), events))

    assert not any(each.was_repeated for each in publications)
    assert len(connected() - of_others) <= 1, "beside the one that was open before"


def test_without_a_free_connection_nothing_was_sent_and_the_setting_is_named(
    clean_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FREE_CONNECTION_TIMEOUT_S", 0.1)
    bus = a_bus(clean_broker_url, max_state_connections=1)
    publish(bus)

    with (
        bus.redis.client(),
        pytest.raises(BrokerUnavailable, match=r"all 1 connections .* PETIOLE_MAX_STATE_CONNECTIONS$") as told,
    ):
        publish(bus)

    assert not isinstance(told.value, PublishOutcomeUnknown)


def test_a_server_that_refuses_the_password_was_sent_nothing(clean_broker_url: str) -> None:
    address = clean_broker_url.partition("@")[2]
    bus = a_bus(f"redis://nobody:wrong@{address}")

    with pytest.raises(BrokerUnavailable) as told:
        publish(bus)

    assert not isinstance(told.value, PublishOutcomeUnknown)
