"""Celery's settings, read from the environment; data only.

    PETIOLE_BROKER_URL      redis://… or amqp://…; without it CELERY_BROKER_URL, then the embedded broker, if it runs
    PETIOLE_TRANSPORT       stock: kombu's own transport for Redis, not ours (tasks/transport/)
    PETIOLE_RESULT_URL      where results of requests are kept; without it CELERY_RESULT_BACKEND, then
                            PETIOLE_STATE_URL, then the broker
    PETIOLE_HOME            folder of the embedded broker and of beat's schedule; ./.petiole
    PETIOLE_TICK_INTERVAL_S, PETIOLE_METRICS_INTERVAL_S   how often beat has system.tick and system.metrics.summary
                            published, in seconds; 0 switches one off; 60
    PETIOLE_SESSION_SWEEP_INTERVAL_S   how often beat looks for sessions that are idle (tasks/sessions/expiry.py); 15
    PETIOLE_CONSOLIDATION_INTERVAL_S   how often beat has the memory clean up, as above; 3600
    PETIOLE_VISIBILITY_TIMEOUT_S   how long a lease lasts that is not renewed, see tasks/transport/leases.py; 15

What is not Celery's business is set in tasks/settings.py.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.1, 86_400

HOME = Path(os.environ.get("PETIOLE_HOME") or ".petiole")


def _embedded_broker_url() -> str | None:
    """Read where the embedded broker listens; None where none was started."""
    try:
        return (HOME / "broker.url").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _by_our_transport(url: str) -> str:
    """Prefix every address that our transport serves; as petiole.tasks.transport.ours, which a file of data cannot import."""
    if os.environ.get("PETIOLE_TRANSPORT") == "stock":
        return url
    addresses = url.replace("redis+socket://", "socket://").split(";")
    is_served = all(address.startswith(("redis://", "rediss://", "socket://", "sentinel://")) for address in addresses)
    return ";".join(f"petiole+{address}" for address in addresses) if is_served else url


def _interval_s(name: str, default: float) -> float:
    """Read an interval in seconds; 0 is none. Raises ValueError, in whatever process reads it."""
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_INTERVAL_S or 0 < seconds < _SHORTEST_INTERVAL_S:
        remedy = f"give seconds from {_SHORTEST_INTERVAL_S} to {_LONGEST_INTERVAL_S}, or 0 to switch it off"
        raise ValueError(f"{name}={text} is no interval; {remedy}")
    return seconds


_url = os.environ.get("PETIOLE_BROKER_URL") or os.environ.get("CELERY_BROKER_URL") or _embedded_broker_url()
broker_url = _by_our_transport(_url) if _url else None
# Results are no messages: their backend talks to the server as it always did.
result_backend = (
    os.environ.get("PETIOLE_RESULT_URL")
    or os.environ.get("CELERY_RESULT_BACKEND")
    or os.environ.get("PETIOLE_STATE_URL")
    or _url
)
broker_connection_retry_on_startup = True
broker_transport_options = {
    "visibility_timeout": float(os.environ.get("PETIOLE_VISIBILITY_TIMEOUT_S", "15")),
    # Stock values look for a dead worker's messages about every 100 s.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    # RabbitMQ's: a message counts as sent when its queue has it on disk. Redis needs no telling.
    "confirm_publish": True,
}
redis_socket_timeout = 30
redis_socket_connect_timeout = 5

# JSON and nothing else: a pickle from the network runs as code.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"

# A delivery leaves its queue when it is settled, not when it is taken.
task_acks_late = True
task_reject_on_worker_lost = True
task_ignore_result = True
task_track_started = False
worker_prefetch_multiplier = 4
# Keeps what Celery would log and drop: bytes that are no task, and tasks that nobody knows.
worker_consumer = "petiole.tasks.consuming.consumer:Consumer"

# Queues are named by agents; what names no queue is a publication.
task_default_queue = "publish"

timezone = "UTC"
enable_utc = True
worker_hijack_root_logger = False

# What comes too late is not handled (`expires`); tasks/periodic.py names each by its slot, so two beats do not double.
beat_schedule: dict[str, dict[str, object]] = {
    task: {
        "task": f"petiole.{task}",
        "schedule": interval_s,
        "kwargs": {"interval_s": interval_s},
        "options": {"expires": interval_s},
    }
    for task, interval_s in (
        ("tick", _interval_s("PETIOLE_TICK_INTERVAL_S", 60.0)),
        ("metrics", _interval_s("PETIOLE_METRICS_INTERVAL_S", 60.0)),
        ("sessions", _interval_s("PETIOLE_SESSION_SWEEP_INTERVAL_S", 15.0)),
        ("consolidation", _interval_s("PETIOLE_CONSOLIDATION_INTERVAL_S", 3600.0)),
    )
    if interval_s
}
# Celery rounds its waits to whole turns: a beat that sleeps for long keeps no short interval.
beat_max_loop_interval = 5
# celery-redbeat, where it is the scheduler: docs/guides/lifecycle.md. It talks to the server without our transport.
redbeat_redis_url = os.environ.get("PETIOLE_STATE_URL") or _url
redbeat_key_prefix = f"{os.environ.get('PETIOLE_KEY_PREFIX') or 'petiole'}:redbeat:"
# As long as nobody ticks after a beat was killed; its own default is 25 minutes.
redbeat_lock_timeout = 10
beat_schedule_filename = str(HOME / "beat-schedule")
