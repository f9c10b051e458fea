"""Configurations of push notifications: what a client of A2A asks for. The agent of `a2a_push.py` posts them.

Offered if that agent is subscribed, which the agent card says too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from a2a.server.tasks.push_notification_config_store import normalize_push_notification_config
from a2a.types import TaskPushNotificationConfig
from a2a.utils.errors import InvalidParamsError, PushNotificationNotSupportedError, TaskNotFoundError
from google.protobuf.json_format import MessageToJson, Parse

from petiole.events.errors import UsageError
from petiole.events.texts import error_text
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.push_targets import resolve_target
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state

PUSH_AGENT: Final = "a2a_push"
MAX_CONFIGS: Final = 10
_MAX_LENGTH: Final = 4_096


def is_push_offered(bus: BusRuntime) -> bool:
    """Return whether notifications would be posted: the agent is subscribed, and may post somewhere."""
    if not WorkerSettings().push_hosts:
        return False
    with bus.state_store_access("looking up the agent of push notifications"):
        _, subscriptions = bus.stores.directory.read()
    return any(each.agent == PUSH_AGENT for each in subscriptions)


async def check_config(bus: BusRuntime, task_id: str, config: TaskPushNotificationConfig) -> TaskPushNotificationConfig:
    """Check a configuration of a task, and return it with the ids that it has.

    Raises: PushNotificationNotSupportedError, InvalidParamsError.
    """
    if not await asyncio.to_thread(is_push_offered, bus):
        raise PushNotificationNotSupportedError
    authentication = config.authentication
    texts = (config.id, config.token, authentication.scheme, authentication.credentials)
    # They become headers: a line break in one would begin another header.
    if not all(text.isascii() and text.isprintable() and len(text) <= _MAX_LENGTH for text in texts):
        reason = f"id, token, authentication: give printable ASCII text of at most {_MAX_LENGTH} characters"
        raise InvalidParamsError(message=reason)
    try:
        # A name that cannot be resolved now is checked with each post.
        with suppress(OSError):
            await resolve_target(config.url, WorkerSettings().push_hosts)
    except UsageError as error:
        raise InvalidParamsError(message=error_text(error)) from error
    return normalize_push_notification_config(task_id, config)


def save_config(bus: BusRuntime, config: TaskPushNotificationConfig) -> None:
    """Save a configuration that was checked. Raises InvalidParamsError if its task has too many."""
    store = team_state(bus).push_notifications
    with bus.state_store_access("saving a push notification configuration"):
        known = store.read(config.task_id)
        if config.id not in known and len(known) >= MAX_CONFIGS:
            reason = f"task {config.task_id!r} has {MAX_CONFIGS} push notification configurations; delete one"
            raise InvalidParamsError(message=reason)
        store.save(config.task_id, config.id, MessageToJson(config, indent=None))


async def find_config(bus: BusRuntime, task_id: str, config_id: str) -> TaskPushNotificationConfig:
    """Return a configuration of a task. Raises TaskNotFoundError."""
    found = next((each for each in await list_configs(bus, task_id) if each.id == config_id), None)
    if found is None:
        raise TaskNotFoundError(message=f"task {task_id!r} has no push notification configuration {config_id!r}")
    return found


async def list_configs(bus: BusRuntime, task_id: str) -> list[TaskPushNotificationConfig]:
    """Return the configurations of a task."""
    documents = await asyncio.to_thread(_read, bus, task_id)
    return [Parse(document, TaskPushNotificationConfig()) for document in documents]


async def remove_config(bus: BusRuntime, task_id: str, config_id: str) -> None:
    """Remove a configuration of a task. Safe to repeat."""
    await asyncio.to_thread(team_state(bus).push_notifications.remove, task_id, config_id)


def _read(bus: BusRuntime, task_id: str) -> list[str]:
    with bus.state_store_access("reading push notification configurations"):
        return list(team_state(bus).push_notifications.read(task_id).values())
