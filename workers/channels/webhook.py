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

import base64
import binascii
import json
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, AnyHttpUrl, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from petiole.events.errors import NotConfigured, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.tasks.resilience.guarded import guarded
from petiole.workers.channels.channel import Repetition

if TYPE_CHECKING:
    import httpx2
    import standardwebhooks

# The receiver may take the message later; every other status that is no success stays.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_PREFIX: Final = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64  # which the specification asks for and the library does not check


def _checked_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(f"is no {_PREFIX} followed by {_LEAST_BYTES} to {_MOST_BYTES} bytes as base64")
    return secret


class WebhookSettings(BaseSettings):
    """Where messages go, and how they are signed."""

    model_config = SettingsConfigDict(
        env_prefix="PETIOLE_WEBHOOK_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    url: AnyHttpUrl | None = None
    secret: Annotated[SecretStr, AfterValidator(_checked_secret)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0


class Webhook:
    """A channel that posts each message to one URL. It posts once: to try again is the delivery's business."""

    name = "webhook"
    repetition: Repetition = "known"

    def __init__(self, settings: WebhookSettings) -> None:
        """Prepare the client; nothing is sent yet. Raises: UsageError (missing_extra), NotConfigured."""
        if settings.url is None or settings.secret is None:
            raise NotConfigured("the webhook", "set PETIOLE_WEBHOOK_URL and PETIOLE_WEBHOOK_SECRET, both")
        self._url = str(settings.url)
        self._client, self._signer = _connect(settings.timeout_s, settings.secret.get_secret_value())

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
    try:
        settings = WebhookSettings()
    except ValidationError as error:
        first = error.errors()[0]
        field = "_".join(str(step) for step in first["loc"]).upper()
        raise NotConfigured("the webhook", f"PETIOLE_WEBHOOK_{field}: {first['msg']}") from error
    return _opened(settings) if settings.url else None


# Made in the process that sends: a client's connections do not survive a fork.
@cache
def _opened(settings: WebhookSettings) -> Webhook:
    return Webhook(settings)


def _connect(timeout_s: float, secret: str) -> tuple[httpx2.Client, standardwebhooks.Webhook]:
    try:
        import httpx2  # noqa: PLC0415 - as above
        import standardwebhooks  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise missing_extra("the webhook", "webhook") from error
    return httpx2.Client(timeout=timeout_s, follow_redirects=False), standardwebhooks.Webhook(secret)
