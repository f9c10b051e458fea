"""Webhooks of other systems, verified as Standard Webhooks specifies; each becomes an event.

    POST /webhooks/{source}                 the body is a JSON object

PETIOLE_INBOUND_WEBHOOKS has the secret of each source: {"shop": "whsec_…"}. A verified webhook is published as
`input.webhook.received` in the stream `webhook-{source}`. Its event id is derived from source and `webhook-id`, so a
webhook that is sent again is published once. The answer is 202; 401 if the signature is wrong or older than five
minutes; 404 for a source without a secret. Needs the extra `webhook`.

Source: Standard Webhooks, version 1.0.0.
"""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus

from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from petiole.events.catalog.input import ReceivedWebhook, WebhookEvent
from petiole.events.event import EventContext
from petiole.events.ids import derived_event_id
from petiole.events.texts import error_text
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.messages import publish_event
from petiole.workers.gateways.problems import RequestRefused, answer_problems
from petiole.workers.settings import WorkerSettings


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the route that receives webhooks; none without a secret."""
    secrets = {name: secret.get_secret_value() for name, secret in WorkerSettings().inbound_webhooks.items()}
    verifiers = {name: Webhook(secret) for name, secret in secrets.items()}

    async def receive(request: Request) -> Response:
        source = str(request.path_params["source"])
        verifier = verifiers.get(source)
        if verifier is None:
            reason = f"no webhook of {source!r} is expected; add its secret to PETIOLE_INBOUND_WEBHOOKS"
            raise RequestRefused(HTTPStatus.NOT_FOUND, reason)
        webhook_id = verify(verifier, request, body := await request.body())
        event = build_webhook_event(source, webhook_id, body)
        await run_in_threadpool(partial(publish_event, bus, event))
        return JSONResponse({"event_id": event.event_id}, HTTPStatus.ACCEPTED)

    return [Route("/webhooks/{source}", answer_problems(receive), methods=["POST"])] if verifiers else []


def verify(verifier: Webhook, request: Request, body: bytes) -> str:
    """Verify the signature and the time of a webhook, and return its id. Raises RequestRefused."""
    try:
        # Checked before the body is parsed, and parsed by us: the library's errors for other bodies are its own.
        verifier.verify(body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError) as error:  # the latter if headers or body are malformed
        reason = f"the signature is not valid ({error_text(error)}); sign it with the secret of this source"
        raise RequestRefused(HTTPStatus.UNAUTHORIZED, reason) from error
    return request.headers["webhook-id"]


def build_webhook_event(source: str, webhook_id: str, body: bytes) -> WebhookEvent:
    """Build the event of a webhook. Raises RequestRefused if its body is not a JSON object."""
    try:
        document = json.loads(body)
        content = ReceivedWebhook(source=source, webhook_id=webhook_id, payload=document)
        return WebhookEvent(
            event_id=derived_event_id("webhook", source, webhook_id),
            stream_id=f"webhook-{source}",
            content=content,
            context=EventContext(source=f"webhook-{source}"),
        )
    except (ValueError, RecursionError) as error:
        field = f" ({error.errors()[0]['msg']})" if isinstance(error, ValidationError) else ""
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"the body is no JSON object{field}; send one") from error
