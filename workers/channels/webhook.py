"""Webhook: the channel that posts answers to one URL, signed as Standard Webhooks specifies.

    PETIOLE_WEBHOOK_URL         the URL; unset disables the webhook
    PETIOLE_WEBHOOK_SECRET      `whsec_` and 24 to 64 bytes as base64, shared with the receiver
    PETIOLE_WEBHOOK_TIMEOUT_S   how long the receiver may be silent; 10

The body is JSON. `webhook-id` and `Idempotency-Key` are the message id, the same for every attempt.
`webhook-signature` covers the id, `webhook-timestamp` and the body. The receiver verifies the signature with a library
for Standard Webhooks, which also refuses requests older than some minutes, and drops ids that it has seen.

Source: Standard Webhooks, version 1.0.0, sections "Webhook headers" and "Signature scheme".
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from petiole.events.errors import NotConfigured, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.events.texts import error_text
from petiole.tasks.resilience.guarded import guarded
from petiole.workers.channels.channel import DuplicateBehavior
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import httpx2
    import standardwebhooks

# With these statuses and those from 500 the receiver may accept the message later.
_RETRYABLE_STATUSES: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class Webhook:
    """A channel that posts each message to one URL. It posts once; retries belong to the delivery."""

    name = "webhook"
    on_duplicate: DuplicateBehavior = "known"

    def __init__(self, url: str, secret: str, timeout_s: float) -> None:
        """Create the client; sends nothing. Raises UsageError (missing_extra)."""
        self._url = url
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
        self._post(body.encode(), self._signed_headers(message_id, body))

    def _signed_headers(self, message_id: str, body: str) -> dict[str, str]:
        sent_at = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "idempotency-key": message_id,
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": self._signer.sign(message_id, sent_at, body),
        }

    @guarded("channel.webhook", attempts=1)
    def _post(self, body: bytes, headers: dict[str, str]) -> None:
        import httpx2  # noqa: PLC0415 - an extra

        try:
            # The body of the response is not used and may be endless, so it is not read.
            with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                response.raise_for_status()
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            reason = f"it answered with status {status}"
            if status in _RETRYABLE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ProviderUnavailable(self.name, reason) from error
            raise ProviderRefused(self.name, reason) from error
        except httpx2.HTTPError as error:
            raise ProviderUnavailable(self.name, error_text(error)) from error


def open_webhook() -> Webhook | None:
    """Open the configured webhook; None if PETIOLE_WEBHOOK_URL is not set.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    settings = WorkerSettings()
    if settings.webhook_url is None:
        return None
    if settings.webhook_secret is None:
        raise NotConfigured("the webhook", "set PETIOLE_WEBHOOK_SECRET too, or unset PETIOLE_WEBHOOK_URL")
    return _open_configured(
        str(settings.webhook_url), settings.webhook_secret.get_secret_value(), settings.webhook_timeout_s
    )


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
    return httpx2.Client(timeout=timeout_s, follow_redirects=False), standardwebhooks.Webhook(secret)
