"""Push notifications of A2A: the agent that posts a task to its clients whenever its state changes.

    PETIOLE_AGENTS=petiole.workers.agents,petiole.workers.gateways.a2a_push
    PETIOLE_PUSH_HOSTS=hooks.example.com          where clients may be notified (push_targets.py)

Each change of a task's state is an event, and each event is a delivery of this agent: a notification is retried, and
after the last attempt it is a dead letter. What is posted is the task as it is then, so a late notification never tells
an old state. A state is posted once to each configuration, or again if the worker died before it recorded the post;
`Idempotency-Key` is then the same.

The body is a StreamResponse as JSON. `X-A2A-Notification-Token` and `Authorization` are as the client configured.

Source: A2A 1.0, section 4.3, Push notifications.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from http import HTTPStatus
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import httpx2
from a2a.types import StreamResponse, Task, TaskPushNotificationConfig
from google.protobuf.json_format import MessageToDict, Parse

from petiole.events.errors import PetioleError, ProviderRefused, ProviderUnavailable, UsageError
from petiole.events.event import Event
from petiole.events.texts import error_text
from petiole.tasks import Agent, Context, RetryPolicy
from petiole.workers.gateways.a2a_tasks import read_task
from petiole.workers.gateways.push_targets import PushTarget, resolve_target
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.state.push_notifications import PushNotifications

agent = Agent("a2a_push")

POST_TIMEOUT_S: Final = 10.0
"""How long one post may take in all."""

_RECEIVER: Final = "the receiver of push notifications"
_RETRY: Final = RetryPolicy(max_attempts=8, base=timedelta(seconds=1), factor=3.0, cap=timedelta(minutes=10))
_RETRYABLE: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


@agent.on("tools.approval.*", "orchestrator.response.ready", "flow.cancelled", retry=_RETRY)
async def notify_clients(event: Event, context: Context) -> None:
    """Post the task of an event's flow to its clients, unless they know its state.

    Raises the first error, after all clients were tried.
    """
    store, flow_id = team_state(context.bus).push_notifications, event.correlation_id
    configs = await asyncio.to_thread(store.read, flow_id)
    if not configs:
        return
    task = (await asyncio.to_thread(read_task, context.bus, flow_id)).build_task()
    failures = [error for config in configs.values() if (error := await _notify(store, config, task))]
    if failures:
        raise failures[0]


@agent.on("llm.response.generated", where={"content.finish_reason": "interrupted"}, retry=_RETRY)
async def notify_clients_of_interruption(event: Event, context: Context) -> None:
    """Post the task of an answer that a newer message interrupted."""
    await notify_clients(event, context)


async def _notify(store: PushNotifications, document: str, task: Task) -> PetioleError | None:
    """Post a task, unless its state was posted. Returns the error, so that the other clients are notified too."""
    config = Parse(document, TaskPushNotificationConfig())
    state = f"{task.status.state} {task.status.timestamp.ToJsonString()}"
    if (await asyncio.to_thread(store.read_notified, task.id)).get(config.id) == state:
        return None
    try:
        await post_task(config, task, notification_id=str(uuid5(NAMESPACE_URL, repr((task.id, config.id, state)))))
    except (ProviderRefused, ProviderUnavailable) as error:
        return error
    await asyncio.to_thread(store.mark_notified, task.id, config.id, state)
    return None


async def post_task(config: TaskPushNotificationConfig, task: Task, *, notification_id: str) -> None:
    """Post a task to a client. Raises ProviderUnavailable, ProviderRefused."""
    body = json.dumps(MessageToDict(StreamResponse(task=task))).encode()
    headers = {"content-type": "application/json", "idempotency-key": notification_id}
    if config.token:
        headers["x-a2a-notification-token"] = config.token
    if config.authentication.scheme and config.authentication.credentials:
        headers["authorization"] = f"{config.authentication.scheme} {config.authentication.credentials}"
    try:
        async with asyncio.timeout(POST_TIMEOUT_S):
            target = await resolve_target(config.url, WorkerSettings().push_hosts)
            status = await _post(target, body, headers)
    except UsageError as error:
        raise ProviderRefused(_RECEIVER, error_text(error)) from error
    except (TimeoutError, OSError, httpx2.HTTPError) as error:
        raise ProviderUnavailable(_RECEIVER, f"{config.url}: {error_text(error)}") from error
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ProviderUnavailable(_RECEIVER, f"{config.url} answered with status {status}")
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise ProviderRefused(_RECEIVER, f"{config.url} answered with status {status}")


async def _post(target: PushTarget, body: bytes, headers: dict[str, str]) -> int:
    """Post to the address that was checked, and return the status. The body of the response is not read."""
    # Without the environment: a proxy of it would resolve the name again.
    async with httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=POST_TIMEOUT_S) as client:
        request = client.build_request(
            "POST",
            target.address_url,
            content=body,
            headers={**headers, "host": target.url.netloc},
            extensions={"sni_hostname": target.hostname},
        )
        response = await client.send(request, stream=True)
        try:
            return response.status_code
        finally:
            await response.aclose()
