"""Messages and webhooks over HTTP become events, each once; what is wrong is refused with the reason."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.routing import Mount

from petiole.tasks import EventBus, end_session
from petiole.tasks.stores.history import HistoryQuery
from petiole.workers.gateways.application import create_application
from tests.contracts.channels.answers import Served, served, serving

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def recorded(bus: EventBus, pattern: str) -> list[dict[str, Any]]:
    return [dict(each.document) for each in bus.stores.history.select(HistoryQuery(pattern=pattern))]


def post(server: Served, body: object, *, stream_id: str = "s", **headers: str) -> httpx2.Response:
    return httpx2.post(f"{server.url}/streams/{stream_id}/messages", json=body, headers=headers)


def test_a_message_is_published_once_however_often_it_is_sent_with_one_key(bus):
    with served(bus) as server:
        answers = [
            post(server, {"text": "Hello", "user_id": "ada"}, stream_id="a/b", **{"Idempotency-Key": "1"})
            for _ in range(3)
        ]
        other = post(server, {"text": "Hello"}, stream_id="a/b")

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].headers["location"] == "/streams/a%2Fb/events"
    messages = recorded(bus, "input.message.received")
    assert [message["event_id"] for message in messages] == [each.json()["event_id"] for each in (answers[0], other)]
    assert [message["context"]["user_id"] for message in messages] == ["ada", None]
    assert {message["stream_id"] for message in messages} == {"a/b"}


def test_a_message_is_cancelled_in_its_stream_and_in_no_other(bus):
    with served(bus) as server:
        message = post(server, {"text": "Hello"}, stream_id="a/b").json()["event_id"]

        answers = [
            httpx2.delete(f"{server.url}/streams/{path}/messages/{event_id}").status_code
            for path, event_id in (("c", message), ("a%2Fb", "none"), ("a%2Fb", message), ("a%2Fb", message))
        ]

    assert answers == [404, 404, 204, 204]
    assert [cancelled["correlation_id"] for cancelled in recorded(bus, "flow.cancelled")] == [message]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b'{"text": ""}', {}, 400, "text"),
        (b'{"text": "x", "colour": 1}', {}, 400, "colour"),
        (b'["text"]', {}, 400, "the body"),
        (b'{"text": "\\ud800"}', {}, 400, "correct it"),
        (b"\xff", {}, 400, "the body"),
        (b'{"text": "x"}', {"Content-Type": "text/plain"}, 415, "application/json"),
        (b'{"text": "x"}', {"Origin": "http://evil.example"}, 403, "--allow-origin"),
        (b'{"text": "' + b"x" * 1_048_576 + b'"}', {}, 413, "send less"),
        (b'{"text": "x"}', {"Idempotency-Key": "x" * 256}, 400, "Idempotency-Key"),
    ],
)
def test_what_is_no_message_is_refused_with_the_field_and_the_reason(bus, body, headers, status, reason):
    with served(bus) as server:
        url, kind = f"{server.url}/streams/s/messages", {"Content-Type": "application/json"}
        answer = httpx2.post(url, content=body, headers=kind | headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert reason in answer.json()["detail"]
    assert recorded(bus, "input.*") == []


def test_a_message_to_a_session_that_has_ended_is_a_conflict(bus):
    with served(bus) as server:
        assert post(server, {"text": "Hello"}).status_code == 202
        end_session("s", bus=bus)
        late = post(server, {"text": "Hello"})

    assert (late.status_code, late.json()["code"]) == (409, "SessionEnded")


def test_the_gateways_are_mounted_in_an_application_of_ones_own(bus):
    application = Starlette(routes=[Mount("/agents", create_application(bus, trusts_loopback=True))])

    with serving(application) as url:
        answer = httpx2.post(f"{url}/agents/streams/s/messages", json={"text": "Hello"})

    assert (answer.status_code, answer.headers["location"]) == (202, "/agents/streams/s/events")


def send(server: Served, body: bytes, *, to: str = "shop", signed: bytes | None = None, age_s: float = 0) -> int:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    signature = Webhook(SECRET).sign("an-id", at, (body if signed is None else signed).decode())
    headers = {
        "webhook-id": "an-id",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
        "content-type": "application/json",
    }
    return httpx2.post(f"{server.url}/webhooks/{to}", content=body, headers=headers).status_code


def test_a_signed_webhook_is_one_event_and_a_forged_one_is_none(bus, monkeypatch):
    monkeypatch.setenv("PETIOLE_INBOUND_WEBHOOKS", json.dumps({"shop": SECRET}))
    body = b'{"type": "order.paid", "data": {"order": 7}}'

    with served(bus) as server:
        refused = [
            send(server, body, signed=b"{}"),
            send(server, body, age_s=600),
            send(server, body, to="other"),
            send(server, b"[1]"),
            httpx2.post(
                f"{server.url}/webhooks/shop", content=b"\xff", headers={"webhook-signature": "v1"}
            ).status_code,
        ]
        accepted = [send(server, body) for _ in range(2)]

    assert (refused, accepted) == ([401, 401, 404, 400, 401], [202, 202])
    (event,) = recorded(bus, "input.*")
    assert (event["event_type"], event["stream_id"]) == ("input.webhook.received", "webhook-shop")
    assert event["content"] == {"source": "shop", "webhook_id": "an-id", "payload": json.loads(body)}
