"""Celery's settings: the defaults of the default app, and what a bus needs of any app.

Default app: `celeryconfig`, where such a module is found, is laid over `default_configuration`; PETIOLE_BROKER_URL
wins over both.

Any app: `configure` adds what is not set (our consumer, our transport for Redis, beat entries) and changes no value
that the app has. `conflicts` lists the values that would break a guarantee; a worker does not start with them.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from celery import Celery

from petiole.tasks.settings import Settings
from petiole.tasks.transport import ours
from petiole.tasks.transport.address import PREFIX

CONSUMER = "petiole.tasks.consuming.consumer:Consumer"

STOCK_OPTIONS = {
    # Kombu's own values look for a dead worker's messages about every 100 s.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
"""Options of kombu's own transport for Redis. Ours has them as defaults (transport/leases.py)."""

Configuration = Any  # celery.app.utils.Settings, of which the stubs describe half


def make_default_app() -> Celery:
    """Make the Celery app of the default bus. It reads its settings when they are first used."""
    app = Celery("petiole", set_as_current=False)
    app.config_from_object("celeryconfig", silent=True)
    return app


def default_configuration(settings: Settings) -> dict[str, object]:
    """Return the settings of the default app, without a `celeryconfig`."""
    url = settings.broker_url or settings.embedded_broker_url
    return {
        "broker_url": url,
        "result_backend": settings.state_url or url,
        "broker_connection_retry_on_startup": True,
        "redis_socket_timeout": 30,
        "redis_socket_connect_timeout": 5,
        # JSON and nothing else: a pickle from the network runs as code.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "worker_prefetch_multiplier": 4,
        "worker_hijack_root_logger": False,
        "task_default_queue": "publish",
        "timezone": "UTC",
        # Celery rounds its waits to whole turns: a beat that sleeps for long keeps no short interval.
        "beat_max_loop_interval": 5,
        "beat_schedule_filename": str(settings.home / "beat-schedule"),
        # celery-redbeat, where it is the scheduler; it talks to the server without our transport.
        "redbeat_redis_url": settings.state_url or url,
        "redbeat_key_prefix": f"{settings.key_prefix}:redbeat:",
        # As long as nobody ticks after a beat was killed; its own default is 25 minutes.
        "redbeat_lock_timeout": 10,
    }


def configure(conf: Configuration, settings: Settings, schedule: Mapping[str, Any], *, is_default: bool) -> None:
    """Add to an app's settings what a bus needs and the app has not set."""
    defaults = {"worker_consumer": CONSUMER} | (default_configuration(settings) if is_default else {})
    conf.update({name: value for name, value in defaults.items() if not conf.value_set_for(name)})
    conf.beat_schedule = {**schedule, **conf.beat_schedule}
    use_broker(conf, (is_default and settings.broker_url) or conf.broker_write_url, settings)


def use_broker(conf: Configuration, url: str | None, settings: Settings) -> None:
    """Let an app talk to this broker; to Redis by our transport. `broker_url` stays as it is."""
    if url is None:
        return
    options: dict[str, object] = {}
    if url.startswith(("amqp://", "amqps://", "pyamqp://")):
        # A message counts as sent when its queue has it on disk. Redis needs no telling.
        options["confirm_publish"] = True
    elif ours(url).startswith(PREFIX):
        options["visibility_timeout"] = settings.visibility_timeout_s
        options |= STOCK_OPTIONS if settings.transport == "kombu" else {}
    conf.broker_transport_options = options | conf.broker_transport_options
    served = url if settings.transport == "kombu" else ours(url)
    conf.update(broker_read_url=served, broker_write_url=served)


def conflicts(app: Celery, tasks: Iterable[Any]) -> Iterator[str]:
    """Say which settings of an app would break a guarantee, where they stand, and what to do."""
    conf: Configuration = app.conf
    if conf.worker_consumer != CONSUMER:
        yield f"{_place('worker_consumer')} is {conf.worker_consumer!r}; remove it: deliveries need {CONSUMER}"
    if not {"json", "application/json"} & set(conf.accept_content):
        yield f"{_place('accept_content')} is {conf.accept_content!r}; add 'json': events travel as JSON"
    if conf.task_protocol != 2:  # noqa: PLR2004 - Celery's own number
        yield f"{_place('task_protocol')} is {conf.task_protocol!r}; remove it: deliveries need headers (protocol 2)"
    for task in tasks:
        for name, needed in (("acks_late", True), ("reject_on_worker_lost", True), ("serializer", "json")):
            if getattr(task, name) != needed:
                yield (
                    f"{_place('task_annotations')} sets {name}={getattr(task, name)!r} for {task.name}; "
                    f"exclude Petiole's tasks: an event would be lost with its worker"
                )


def _place(setting: str) -> str:
    """Name a setting, with the line of `celeryconfig` that sets it, where it stands in one."""
    spec = importlib.util.find_spec("celeryconfig")
    if spec is None or spec.origin is None:
        return setting
    lines = Path(spec.origin).read_text(encoding="utf-8", errors="replace").splitlines()
    numbers = (number for number, line in enumerate(lines, 1) if re.match(rf"\s*{setting}\b", line))
    number = next(numbers, None)
    return f"{spec.origin}:{number}: {setting}" if number else setting
