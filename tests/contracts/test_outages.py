from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown, StateStoreUnavailable
from petiole.tasks import EventBus, dead_letters, runtime
from petiole.tasks.operations.history_replay import replay_history
from petiole.tasks.publishing import claim_check
from petiole.tasks.sessions.session import open_session
from petiole.tasks.stores.blobs import build_blob
from petiole.workers import cli
from tests.support.apps import a_bus, publish_once

NOWHERE = "redis://127.0.0.1:1/0"


def publish(bus: EventBus) -> object:
    return publish_once(bus, TextMessageEvent(stream_id="s", content=TextContent(text="hi")))


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
    bus = a_bus(clean_broker_url, max_state_connections=2)
    events = [TextMessageEvent(stream_id="s", content=TextContent(text=str(number))) for number in range(120)]

    with ThreadPoolExecutor(60) as pool:
        publications = list(pool.map(lambda event: publish_once(bus, event), events))

    assert not any(each.was_repeated for each in publications)
    assert len(bus.redis.client_list()) <= 2


def test_without_a_free_connection_nothing_was_sent_and_the_setting_is_named(
    clean_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_FREE_CONNECTION_TIMEOUT_S", 0.1)
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
    bus = a_bus(f"redis://:wrong@{address}")

    with pytest.raises(BrokerUnavailable) as told:
        publish(bus)

    assert not isinstance(told.value, PublishOutcomeUnknown)
