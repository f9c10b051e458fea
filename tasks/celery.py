"""Celery's settings: the defaults of the default app, and what a bus needs of any app.

Default app: `celeryconfig`, where such a module is found, is laid over `default_configuration`; PETIOLE_BROKER_URL
wins over both.

Any app: `configure` adds our consumer and our beat entries, and changes no value that the app has. `conflicts` lists
the values that would break a guarantee; a worker does not start with them. Our transport for Redis is no setting:
broker/topology.py chooses it for each connection.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.app.routes import MapRoute
from celery.loaders.app import AppLoader
from celery.utils.imports import cwd_in_path

from petiole.tasks.settings import Settings

CONSUMER = "petiole.tasks.consuming.consumer:Consumer"

Configuration = Any  # celery.app.utils.Settings, of which the stubs describe half


class ConfigurationLoader(AppLoader):
    """Celery's loader. A configuration module may be missing; one that is there and cannot be imported is an error."""

    def config_from_object(  # type: ignore[override]  # the stubs leave out that it tells whether there is one
        self,
        obj: Any,
        silent: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
    ) -> bool:
        """Load the configuration module. Raises what importing it raises."""
        with cwd_in_path():
            is_missing = importlib.util.find_spec(obj) is None
        return bool(super().config_from_object(obj, silent=silent and is_missing))


def make_default_app() -> Celery:
    """Make the Celery app of the default bus. It reads its settings when they are first used."""
    app = private_app(loader=f"{__name__}:{ConfigurationLoader.__qualname__}")
    app.config_from_object("celeryconfig", silent=True)
    return app


def private_app(**options: Any) -> Celery:
    """Make a Celery app that nobody finds as the current one: Celery's fix-up for Django would make it the default."""
    return Celery("petiole", set_as_current=False, fixups=[], **options)


def default_configuration(settings: Settings) -> dict[str, object]:
    """Return the settings of the default app, without a `celeryconfig`."""
    url = settings.broker_url or settings.embedded_broker_url
    # The home is there where the embedded broker was started. Beat makes no folder, and ends where there is none.
    schedule_folder = settings.home if settings.home.is_dir() else Path()
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
        "beat_schedule_filename": str(schedule_folder / "beat-schedule"),
        # celery-redbeat, where it is the scheduler; it talks to the server without our transport.
        "redbeat_redis_url": settings.state_url or url,
        "redbeat_key_prefix": f"{settings.key_prefix}:redbeat:",
        # As long as nobody ticks after a beat was killed; its own default is 25 minutes.
        "redbeat_lock_timeout": 10,
    }


def configure(conf: Configuration, schedule: Mapping[str, Any]) -> None:
    """Add to an app's settings what a bus needs and the app has not set. Safe to repeat."""
    add_unset(conf, {"worker_consumer": CONSUMER})
    conf.beat_schedule = {**schedule, **conf.beat_schedule}


def configure_default(conf: Configuration, settings: Settings) -> None:
    """Give the default app its settings, where nobody set others."""
    add_unset(conf, default_configuration(settings))
    if settings.broker_url:
        use_broker(conf, settings.broker_url)


def add_unset(conf: Configuration, values: Mapping[str, object]) -> None:
    """Set what is not set."""
    conf.update({name: value for name, value in values.items() if not conf.value_set_for(name)})


def use_broker(conf: Configuration, url: str) -> None:
    """Let an app talk to this broker, whatever `broker_url` and CELERY_BROKER_URL say."""
    conf.update(broker_read_url=url, broker_write_url=url)


def conflicts(app: Celery, tasks: Collection[Task[..., Any]], queues: Iterable[str]) -> Iterator[str]:
    """Say which settings of an app would break a guarantee, where they stand, and what to do.

    Args:
        app: the app of a bus, configured.
        tasks: the tasks of the bus.
        queues: the queues in which only tasks of the bus may wait.
    """
    conf: Configuration = app.conf
    if conf.worker_consumer != CONSUMER:
        yield f"{_place(app, 'worker_consumer')} is {conf.worker_consumer!r}; remove it: deliveries need {CONSUMER}"
    if not {"json", "application/json"} & set(conf.accept_content):
        yield f"{_place(app, 'accept_content')} is {conf.accept_content!r}; add 'json': events travel as JSON"
    if conf.task_protocol != 2:  # noqa: PLR2004 - Celery's own number
        yield f"{_place(app, 'task_protocol')} is {conf.task_protocol!r}; remove it: deliveries need protocol 2"
    yield from _annotated(app, tasks)
    yield from _shared_queues(app, {task.name for task in tasks}, set(queues))


_GUARANTEED = {
    "acks_late": True,
    "acks_on_failure": True,
    "acks_on_timeout": True,
    "reject_on_worker_lost": True,
    "retry_on_worker_lost": False,
    "serializer": "json",
}
"""Attributes of our tasks that a setting must not change."""


def _annotated(app: Celery, tasks: Collection[Task[..., Any]]) -> Iterator[str]:
    """Find what `task_annotations` changed; one line for each attribute."""
    changed: dict[str, list[str]] = {}
    for task in tasks:
        for name, needed in _GUARANTEED.items():
            if getattr(task, name) != needed:
                changed.setdefault(f"{name}={getattr(task, name)!r}", []).append(task.name)
    for change, names in changed.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"{_place(app, 'task_annotations')} sets {change} for {min(names)}{others}; name the tasks that it is for, "
            f"and none of Petiole's: an event would be lost with its worker"
        )


def _shared_queues(app: Celery, tasks: set[str], queues: set[str]) -> Iterator[str]:
    """Find queues that the app has for its own tasks, under the name of one of ours."""
    conf: Configuration = app.conf
    if conf.value_set_for("task_queues"):
        declared = conf.task_queues or ()
        names = declared if isinstance(declared, Mapping) else {queue.name for queue in declared}
        yield from _named(app, "task_queues", queues & set(names))
    else:
        yield from _named(app, "task_default_queue", queues & {conf.task_default_queue})
    for name in app.tasks:
        destination = _destination(app, name)
        if name not in tasks:
            yield from _named(app, "task_routes", queues & {destination.get("queue")})
        elif {"exchange", "routing_key"} & set(destination):
            yield f"{_place(app, 'task_routes')} routes {name}; exclude Petiole's tasks: each belongs to its own queue"


def _destination(app: Celery, task: str) -> dict[str, Any]:
    """Tell where the patterns of `task_routes` send a task; functions are not asked."""
    patterns = (route for route in app.amqp.routes if isinstance(route, MapRoute))
    destination: dict[str, Any] = next(filter(None, (route(task) for route in patterns)), {})
    queue = destination.get("queue")
    return destination | {"queue": getattr(queue, "name", queue)}


def _named(app: Celery, setting: str, names: Iterable[str]) -> Iterator[str]:
    for name in sorted(names):
        yield f"{_place(app, setting)} has a queue {name!r}, which is Petiole's; rename it, or the agent of that name"


def _place(app: Celery, setting: str) -> str:
    """Name a setting, with the file and line that sets it, where one is found.

    Celery does not keep where a value comes from, so the user's modules are searched for it.
    """
    prefix = app.namespace or "CELERY"  # type: ignore[attr-defined]  # the stubs leave it out
    assigned = re.compile(rf"""^[^#]*\b({re.escape(prefix)}_)?{setting}["']?\]?\s*[=:,](?!=)""", re.IGNORECASE)
    for path in _users_files():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if numbers := [number for number, line in enumerate(lines, 1) if assigned.match(line)]:
            return f"{path}:{numbers[-1]}: {setting}"
    return setting


def _users_files() -> Iterator[Path]:
    """Name the files of the imported modules that are no part of an installed package, of Python or of Petiole."""
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and not file.startswith(installed) and not name.startswith("petiole."):
            yield Path(file)
