"""Webhook: the channel that posts answers to one URL, signed as Standard Webhooks specifies.

    PETIOLE_WEBHOOK_URL         the URL; unset disables the webhook
    PETIOLE_WEBHOOK_SECRET      `whsec_` and 24 to 64 bytes as base64, shared with the receiver
    PETIOLE_WEBHOOK_TIMEOUT_S   how long a post may take in all; 10
    PETIOLE_WEBHOOK_ALLOW_HTTP  whether the URL may be `http://` beyond this host

The body is JSON. `webhook-id` and `Idempotency-Key` are the message id, the same for every attempt.
`webhook-signature` covers the id, `webhook-timestamp` and the body. The receiver verifies the signature with a library
for Standard Webhooks, which also refuses requests older than some minutes, and drops ids that it has seen.

A receiver that answers 410 (Gone) switches the webhook off: the breaker `channel.webhook` opens without an end, nobody
posts, and messages fail at once, until `petiole breakers close channel.webhook`.

Source: Standard Webhooks, version 1.0.0, sections "Webhook headers" and "Signature scheme".
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Self

from petiole.events.errors import (
    NotConfigured,
    ProviderRefused,
    ProviderUnavailable,
    ServiceUnavailable,
    missing_extra,
)
from petiole.events.texts import error_text
from petiole.tasks.handling.current import current_bus
from petiole.tasks.resilience.circuit_breaker import force_state
from petiole.tasks.resilience.guarded import guarded
from petiole.workers.channels.channel import DuplicateBehavior
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import httpx2
    import standardwebhooks
    from pydantic import AnyHttpUrl

# With these statuses and those from 500 the receiver may accept the message later.
_RETRYABLE_STATUSES: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})

_CIRCUIT: Final = "channel.webhook"
_BY: Final = "the receiver (410 Gone)"
_GONE: Final = (
    "it answered with status 410 (Gone), which switches the webhook off; correct PETIOLE_WEBHOOK_URL, and run: "
    "petiole breakers close channel.webhook"
)


class _Deadline:
    """Ends a request at a time limit for all of it. httpx limits each read alone, which a slow receiver can repeat."""

    def __init__(self, timeout_s: float) -> None:
        self.has_passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(timeout_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._socket is not None:
            self._socket.close()

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Take the socket of the connection from httpx's trace of this request."""
        if name == "connection.connect_tcp.complete":
            # A duplicate: TLS replaces the socket object.
            self._socket = info["return_value"].get_extra_info("socket").dup()
            if self.has_passed:
                self._end()

    def _end(self) -> None:
        self.has_passed = True
        if self._socket is not None:
            with suppress(OSError):  # the receiver has closed it
                self._socket.shutdown(socket.SHUT_RDWR)


class Webhook:
    """A channel that posts each message to one URL. It posts once; retries belong to the delivery."""

    name = "webhook"
    on_duplicate: DuplicateBehavior = "known"

    def __init__(self, url: str, secret: str, timeout_s: float) -> None:
        """Create the client; sends nothing. Raises UsageError (missing_extra)."""
        self._url = url
        self._timeout_s = timeout_s
        self._client, self._signer = _create_client(timeout_s, secret)

    def format(self, text: str) -> str:
        """Return the text unchanged; it is sent as JSON."""
        return text

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Post the message.

        Raises:
            ProviderUnavailable: The receiver did not answer, or answered with a temporary error.
            ServiceUnavailable: The circuit of the webhook is open.
            RetryLater: The receiver asked for a pause (service_throttled).
            ProviderRefused: The receiver refused the message.
        """
        message = {"type": "output.message", "data": {"stream_id": stream_id, "message_id": message_id, "text": text}}
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        try:
            self._post(body.encode(), self._signed_headers(message_id, body))
        except ServiceUnavailable as error:
            if _is_switched_off():
                raise ProviderRefused(self.name, _GONE) from error
            raise
        except ProviderRefused as error:
            if error.reason == _GONE:
                force_state(current_bus(), _CIRCUIT, "open", by=_BY)
            raise

    def _signed_headers(self, message_id: str, body: str) -> dict[str, str]:
        sent_at = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "idempotency-key": message_id,
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": self._signer.sign(message_id, sent_at, body),
        }

    @guarded(_CIRCUIT, attempts=1)
    def _post(self, body: bytes, headers: dict[str, str]) -> None:
        import httpx2  # noqa: PLC0415 - an extra

        deadline = _Deadline(self._timeout_s)
        try:
            # The body of the response is not used and may be endless, so it is not read.
            with (
                deadline,
                self._client.stream(
                    "POST", self._url, content=body, headers=headers, extensions={"trace": deadline.trace}
                ) as response,
            ):
                response.raise_for_status()
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            reason = _GONE if status == HTTPStatus.GONE else f"it answered with status {status}"
            if status in _RETRYABLE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ProviderUnavailable(self.name, reason) from error
            raise ProviderRefused(self.name, reason) from error
        except httpx2.HTTPError as error:
            reason = error_text(error)
            if deadline.has_passed:
                reason = f"it timed out: no answer within {self._timeout_s:g} s"
            raise ProviderUnavailable(self.name, reason) from error


def open_webhook() -> Webhook | None:
    """Open the configured webhook; None if PETIOLE_WEBHOOK_URL is not set.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    settings = WorkerSettings()
    if settings.webhook_url is None:
        return None
    if settings.webhook_url.scheme == "http" and not (settings.webhook_allow_http or _is_local(settings.webhook_url)):
        raise NotConfigured(
            "the webhook",
            "PETIOLE_WEBHOOK_URL is http://, so anyone on the way reads the messages; use https://, or set "
            "PETIOLE_WEBHOOK_ALLOW_HTTP=true",
        )
    if settings.webhook_secret is None:
        raise NotConfigured("the webhook", "set PETIOLE_WEBHOOK_SECRET too, or unset PETIOLE_WEBHOOK_URL")
    return _open_configured(
        str(settings.webhook_url), settings.webhook_secret.get_secret_value(), settings.webhook_timeout_s
    )


def _is_local(url: AnyHttpUrl) -> bool:
    try:
        return ip_address((url.host or "").strip("[]")).is_loopback
    except ValueError:
        return url.host == "localhost"


def _is_switched_off() -> bool:
    circuits = current_bus().stores.circuits.all()
    return any(each.name == _CIRCUIT and each.state == "open" and each.by == _BY for each in circuits)


# Created in the process that sends, because a client's connections do not survive a fork.
@cache
def _open_configured(url: str, secret: str, timeout_s: float) -> Webhook:
    return Webhook(url, secret, timeout_s)


def _create_client(timeout_s: float, secret: str) -> tuple[httpx2.Client, standardwebhooks.Webhook]:
    try:
        import httpx2  # noqa: PLC0415 - an extra
        import standardwebhooks  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("the webhook", "webhook") from error
    # A connection for each message: `_Deadline` gets the socket when it connects.
    limits = httpx2.Limits(max_keepalive_connections=0)
    client = httpx2.Client(timeout=timeout_s, follow_redirects=False, limits=limits)
    return client, standardwebhooks.Webhook(secret)
