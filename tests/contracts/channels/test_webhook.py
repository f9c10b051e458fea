"""The webhook: signed, the same when repeated, and its failures told apart."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from petiole.events.errors import (
    NotConfigured,
    ProviderRefused,
    ProviderUnavailable,
    RetryLater,
    ServiceUnavailable,
    UsageError,
)
from petiole.tasks.resilience.circuit_breaker import force_state
from petiole.workers.agents.output import check_channels
from petiole.workers.channels.webhook import open_webhook
from tests.contracts.channels.answers import SECRET
from tests.support.errors import has_code


def test_a_webhook_is_signed_as_standard_webhooks_has_it(receiver, webhook):
    webhook.send("s", "m-1", "Grüße")

    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "type": "output.message",
        "data": {"stream_id": "s", "message_id": "m-1", "text": "Grüße"},
    }
    Webhook(SECRET).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers | {"webhook-id": "m-2"})
    assert (headers["content-type"], headers["webhook-id"], headers["idempotency-key"]) == (
        "application/json",
        "m-1",
        "m-1",
    )


def test_a_repeated_webhook_has_the_same_id_and_body(receiver, webhook):
    for _ in range(2):
        webhook.send("s", "m-1", "Hello")

    (first, one), (second, two) = receiver.got
    assert one == two
    assert first["webhook-id"] == second["webhook-id"] == first["idempotency-key"] == second["idempotency-key"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_means_later(receiver, webhook, status):
    receiver.answers = [(status, {})]

    with pytest.raises(ProviderUnavailable, match=f"status {status}"):
        webhook.send("s", "m-1", "Hello")

    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 409, 410, 422])
def test_a_status_that_stays_means_never(receiver, webhook, status):
    receiver.answers = [(status, {"Location": receiver.url})]

    with pytest.raises(ProviderRefused, match=f"status {status}"):
        webhook.send("s", "m-1", "Hello")

    assert len(receiver.got) == 1


def test_a_receiver_that_says_when_to_come_again_is_obeyed(receiver, webhook):
    receiver.answers = [(429, {"Retry-After": "7"})]

    with pytest.raises(RetryLater, check=has_code("service_throttled")) as throttled:
        webhook.send("s", "m-1", "Hello")

    assert throttled.value.after_s == pytest.approx(7, abs=1)


def test_a_receiver_that_is_gone_gets_no_more_until_the_webhook_is_switched_on_again(receiver, webhook, bus):
    receiver.answers = [(410, {}), (204, {})]

    for number in range(3):
        with pytest.raises(ProviderRefused, match=r"410 \(Gone\).*petiole breakers close channel\.webhook"):
            webhook.send("s", f"m-{number}", "Hello")
    assert len(receiver.got) == 1

    force_state(bus, "channel.webhook", "closed")
    webhook.send("s", "m-4", "Hello")
    assert len(receiver.got) == 2


def test_a_breaker_that_an_operator_opened_defers_and_fails_nothing(receiver, webhook, bus):
    webhook.send("s", "m-1", "Hello")
    force_state(bus, "channel.webhook", "open")

    with pytest.raises(ServiceUnavailable):
        webhook.send("s", "m-2", "Hello")


@pytest.mark.parametrize("dripped", [b"HTTP/1.1 204 No Content\r\nX: " + b"x" * 1_000, b""])
def test_a_receiver_that_drips_its_answer_holds_the_sender_no_longer_than_the_limit(receiver, monkeypatch, dripped):
    is_over = threading.Event()

    def drip(listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for number in range(len(dripped)):
                    connection.sendall(dripped[number : number + 1])
                    if is_over.wait(0.1):
                        return
                is_over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/hook")
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        began = time.monotonic()
        webhook = open_webhook()
        assert webhook is not None
        with pytest.raises(ProviderUnavailable, match="timed out"):
            webhook.send("s", "m-1", "Hello")
        took_s = time.monotonic() - began
        is_over.set()
        thread.join(10)

    assert took_s < 5


@pytest.mark.parametrize("url", ["http://example.com/hook", "http://10.0.0.1/hook", "http://localhost.example/hook"])
def test_messages_leave_this_host_in_clear_only_where_it_is_allowed(receiver, monkeypatch, url):
    monkeypatch.setenv("PETIOLE_WEBHOOK_URL", url)
    with pytest.raises(NotConfigured, match="PETIOLE_WEBHOOK_ALLOW_HTTP"):
        open_webhook()
    with pytest.raises(NotConfigured, match="PETIOLE_WEBHOOK_ALLOW_HTTP"):
        check_channels()

    monkeypatch.setenv("PETIOLE_WEBHOOK_ALLOW_HTTP", "true")
    assert open_webhook() is not None


@pytest.mark.parametrize("url", ["https://example.com/hook", "http://[::1]:1/hook", "http://localhost/hook"])
def test_https_and_this_host_need_no_leave(receiver, monkeypatch, url):
    monkeypatch.setenv("PETIOLE_WEBHOOK_URL", url)

    assert open_webhook() is not None


def test_silence_means_later(receiver, webhook):
    receiver.is_slow = True

    with pytest.raises(ProviderUnavailable, match="timed out"):
        webhook.send("s", "m-1", "Hello")


def test_a_refused_connection_means_later_and_then_nobody_is_asked(receiver, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{gone.getsockname()[1]}/hook")
    webhook = open_webhook()
    assert webhook is not None

    for _ in range(5):
        with pytest.raises(ProviderUnavailable):
            webhook.send("s", "m-1", "Hello")

    with pytest.raises(ServiceUnavailable, match=r"channel\.webhook"):
        webhook.send("s", "m-1", "Hello")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"PETIOLE_WEBHOOK_SECRET": ""}, "PETIOLE_WEBHOOK_SECRET"),
        ({"PETIOLE_WEBHOOK_SECRET": "hush-hush"}, "PETIOLE_WEBHOOK_SECRET.*whsec_"),
        ({"PETIOLE_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "PETIOLE_WEBHOOK_SECRET.*24"),
        ({"PETIOLE_WEBHOOK_URL": "ftp://hush-hush"}, "PETIOLE_WEBHOOK_URL"),
        ({"PETIOLE_WEBHOOK_TIMEOUT_S": "0"}, "PETIOLE_WEBHOOK_TIMEOUT_S"),
    ],
    ids=["none", "no prefix", "short", "ftp", "no time"],
)
def test_a_webhook_that_is_configured_wrongly_is_refused_by_name_and_tells_no_secret(
    receiver, monkeypatch, settings, named
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match=named) as refused:
        open_webhook()

    assert "hush-hush" not in f"{refused.value} {refused.value.__cause__}"


@pytest.mark.parametrize("package", ["httpx2", "standardwebhooks"])
def test_without_its_packages_the_extra_is_named(receiver, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PETIOLE_WEBHOOK_TIMEOUT_S", "3.25")  # one that was not opened before

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[webhook\]"):
        open_webhook()
