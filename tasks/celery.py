"""Celery's settings: the defaults of the default app, and the settings that a bus needs in any app.

Default app: a `celeryconfig` module, if there is one, is applied over `default_configuration`; PETIOLE_BROKER_URL has
precedence over both.

Any app: `configure` adds our consumer and our beat entries, and changes no setting that the app has. `conflicts` lists
the values that would break a guarantee; a worker does not start with them. Our Redis transport is not a setting:
broker/topology.py chooses it for each connection.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.app.routes import MapRoute
from celery.loaders.app import AppLoader
from celery.utils.imports import cwd_in_path

from petiole.tasks.stores.connections import split_master_name
from petiole.tasks.transport.address import redis_address, result_backend

if TYPE_CHECKING:
    from petiole.tasks.settings import Settings

CONSUMER = "petiole.tasks.consuming.consumer:Consumer"

Configuration = Any  # celery.app.utils.Settings; the stubs describe half of it


class ConfigurationLoader(AppLoader):
    """Celery's loader. The configuration module may be missing; if it exists, an error in importing it is raised."""

    def config_from_object(  # type: ignore[override]  # the stubs leave out the returned bool
        self,
        obj: Any,
        silent: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
    ) -> bool:
        """Load the configuration module and return whether it exists. Raises what importing it raises."""
        with cwd_in_path():
            is_missing = importlib.util.find_spec(obj) is None
        return bool(super().config_from_object(obj, silent=silent and is_missing))


def make_default_app() -> Celery:
    """Create the Celery app of the default bus. It reads its settings when they are first used."""
    app = private_app(loader=f"{__name__}:{ConfigurationLoader.__qualname__}")
    app.config_from_object("celeryconfig", silent=True)
    return app


def private_app(**options: Any) -> Celery:
    """Create a Celery app that never becomes the current app; Celery's Django fixup would make it so."""
    return Celery("petiole", set_as_current=False, fixups=[], **options)


def default_configuration(settings: Settings) -> dict[str, object]:
    """Return the default app's settings before a `celeryconfig` is applied."""
    url = settings.broker_url or settings.embedded_broker_url
    backend, master_name = split_master_name(result_backend(settings.state_url or url) or "")
    # Starting the embedded broker creates the home folder. Beat creates no folder, and exits if it is missing.
    schedule_folder = settings.home if settings.home.is_dir() else Path()
    return {
        "broker_url": url,
        "result_backend": backend or None,
        "broker_connection_retry_on_startup": True,
        "redis_socket_timeout": 30,
        "redis_socket_connect_timeout": 5,
        # Only JSON: a pickle from the network would run as code.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "worker_prefetch_multiplier": 4,
        "worker_hijack_root_logger": False,
        "task_default_queue": "publish",
        "timezone": "UTC",
        # Beat checks its schedule after each sleep; a longer sleep would delay entries with a short interval.
        "beat_max_loop_interval": 5,
        "beat_schedule_filename": str(schedule_folder / "beat-schedule"),
        # For celery-redbeat, if it is the scheduler; it connects without our transport.
        "redbeat_redis_url": backend and redis_address(backend),
        "redbeat_key_prefix": f"{settings.key_prefix}:redbeat:",
        # How long no beat runs after one was killed; redbeat's default is 25 minutes.
        "redbeat_lock_timeout": 10,
    } | ({"result_backend_transport_options": {"master_name": master_name}} if master_name else {})


def configure(conf: Configuration, schedule: Mapping[str, Any]) -> None:
    """Add the settings that a bus needs to an app that has not set them. Safe to repeat."""
    # After 100 tries to connect, Celery would end the worker.
    add_unset(
        conf,
        {
            "worker_consumer": CONSUMER,
            "broker_connection_max_retries": None,
            # Celery gives a process 4 s. Libraries of models and tool servers need longer (consuming/agent_hooks.py).
            "worker_proc_alive_timeout": 90.0,
        },
    )
    conf.beat_schedule = {**schedule, **conf.beat_schedule}


def configure_default(conf: Configuration, settings: Settings) -> None:
    """Add the default app's settings, except those that are already set."""
    add_unset(conf, default_configuration(settings))
    if settings.broker_url:
        use_broker(conf, settings.broker_url)


def add_unset(conf: Configuration, values: Mapping[str, object]) -> None:
    """Set the values of settings that are not set."""
    conf.update({name: value for name, value in values.items() if not conf.value_set_for(name)})


def use_broker(conf: Configuration, url: str) -> None:
    """Set an app's broker; it has precedence over `broker_url` and CELERY_BROKER_URL."""
    conf.update(broker_read_url=url, broker_write_url=url)


def conflicts(app: Celery, tasks: Collection[Task[..., Any]], queues: Iterable[str]) -> Iterator[str]:
    """Describe each setting of an app that would break a guarantee: where it is set, and what to do.

    Args:
        app: the configured app of a bus.
        tasks: the tasks of the bus.
        queues: the queues that are reserved for tasks of the bus.
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
"""Attributes of our tasks that no setting may change."""


def _annotated(app: Celery, tasks: Collection[Task[..., Any]]) -> Iterator[str]:
    """Describe what `task_annotations` changed; one line for each attribute."""
    changed: dict[str, list[str]] = {}
    for task in tasks:
        for name, needed in _GUARANTEED.items():
            if getattr(task, name) != needed:
                changed.setdefault(f"{name}={getattr(task, name)!r}", []).append(task.name)
    for change, names in changed.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"{_place(app, 'task_annotations')} sets {change} for {min(names)}{others}; list the tasks that need it, "
            f"without Petiole's: an event would be lost with its worker"
        )


def _shared_queues(app: Celery, tasks: set[str], queues: set[str]) -> Iterator[str]:
    """Describe the app's own queues that have the name of one of ours."""
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
    """Find the destination of a task by the patterns of `task_routes`; router functions are not called."""
    patterns = (route for route in app.amqp.routes if isinstance(route, MapRoute))
    destination: dict[str, Any] = next(filter(None, (route(task) for route in patterns)), {})
    queue = destination.get("queue")
    return destination | {"queue": getattr(queue, "name", queue)}


def _named(app: Celery, setting: str, names: Iterable[str]) -> Iterator[str]:
    for name in sorted(names):
        yield f"{_place(app, setting)} has a queue {name!r}, which Petiole uses; rename it, or the agent of that name"


def _place(app: Celery, setting: str) -> str:
    """Name a setting, with the file and line that sets it if they are found.

    Celery does not store where a value comes from, so the user's modules are searched for it.
    """
    prefix = app.namespace or "CELERY"  # type: ignore[attr-defined]  # the stubs leave it out
    assigned = re.compile(rf"""^[^#]*\b({re.escape(prefix)}_)?{setting}["']?\]?\s*[=:,](?!=)""", re.IGNORECASE)
    for path in _users_files():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if numbers := [number for number, line in enumerate(lines, 1) if assigned.match(line)]:
            return f"{path}:{numbers[-1]}: {setting}"
    return setting


def _users_files() -> Iterator[Path]:
    """List the files of imported modules, except installed packages, the standard library and Petiole."""
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and not file.startswith(installed) and not name.startswith("petiole."):
            yield Path(file)
