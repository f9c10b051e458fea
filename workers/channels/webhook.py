"""Webhook: answers as signed HTTP requests to one URL, as Standard Webhooks has them.

    PETIOLE_WEBHOOK_URL         where to; without it there is no webhook
    PETIOLE_WEBHOOK_SECRET      whsec_ and 24 to 64 bytes as base64, shared with whoever receives
    PETIOLE_WEBHOOK_TIMEOUT_S   the longest silence of the receiver; 10

The body is JSON. `webhook-id` is the message's id, the same each time that it is sent (so is `Idempotency-Key`);
`webhook-signature` covers id, `webhook-timestamp` and body. A receiver verifies it with a library of Standard Webhooks,
which also refuses what is older than some minutes, and drops an id that it has had.

Source: Standard Webhooks, version 1.0.0, sections "Webhook headers" and "Signature scheme".
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from petiole.events.errors import NotConfigured, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.tasks.resilience.guarded import guarded
from petiole.workers.channels.channel import Repetition
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import httpx2
    import standardwebhooks

# The receiver may take the message later; every other status that is no success stays.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class Webhook:
    """A channel that posts each message to one URL. It posts once: to try again is the delivery's business."""

    name = "webhook"
    repetition: Repetition = "known"

    def __init__(self, url: str, secret: str, timeout_s: float) -> None:
        """Prepare the client; nothing is sent yet. Raises UsageError (missing_extra)."""
        self._url = url
        self._client, self._signer = _connect(timeout_s, secret)

    def format(self, text: str) -> str:
        """Leave the text as it is: it travels as JSON."""
        return text

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Post the message.

        Raises: ProviderUnavailable, ServiceUnavailable, RetryLater (service_throttled), ProviderRefused.
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
        import httpx2  # noqa: PLC0415 - it comes with an extra

        try:
            # What the receiver says beside its status is nobody's, and may be endless: it is not read.
            with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                response.raise_for_status()
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            reason = f"it answered with status {status}"
            if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ProviderUnavailable(self.name, reason) from error
            raise ProviderRefused(self.name, reason) from error
        except httpx2.HTTPError as error:
            raise ProviderUnavailable(self.name, str(error) or type(error).__name__) from error


def open_webhook() -> Webhook | None:
    """Open the webhook that is configured; None where there is none.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    settings = WorkerSettings()
    if settings.webhook_url is None:
        return None
    if settings.webhook_secret is None:
        raise NotConfigured("the webhook", "set PETIOLE_WEBHOOK_SECRET too, or unset PETIOLE_WEBHOOK_URL")
    return _opened(str(settings.webhook_url), settings.webhook_secret.get_secret_value(), settings.webhook_timeout_s)


# Made in the process that sends: a client's connections do not survive a fork.
@cache
def _opened(url: str, secret: str, timeout_s: float) -> Webhook:
    return Webhook(url, secret, timeout_s)


def _connect(timeout_s: float, secret: str) -> tuple[httpx2.Client, standardwebhooks.Webhook]:
    try:
        import httpx2  # noqa: PLC0415 - as above
        import standardwebhooks  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise missing_extra("the webhook", "webhook") from error
    return httpx2.Client(timeout=timeout_s, follow_redirects=False), standardwebhooks.Webhook(secret)
