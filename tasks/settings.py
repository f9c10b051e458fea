"""Settings of the journey, read from the environment as PETIOLE_…; Celery's own are in celeryconfig.py."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _as_seconds(said: object) -> object:
    try:
        return float(said) if isinstance(said, str) else said
    except ValueError:
        return said


Duration = Annotated[timedelta, BeforeValidator(_as_seconds), Field(gt=timedelta(0))]
"""More than nothing; the environment gives seconds, or ISO 8601 such as PT5M."""


def _as_interval(seconds: float) -> float:
    if seconds != 0 and not _SHORTEST_INTERVAL_S <= seconds <= _LONGEST_INTERVAL_S:
        raise ValueError(f"give seconds from {_SHORTEST_INTERVAL_S} to {_LONGEST_INTERVAL_S}, or 0 to switch it off")
    return seconds


Interval = Annotated[float, AfterValidator(_as_interval)]
"""Seconds between two runs of a periodic task; 0 switches it off."""

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.1, 86_400


class Settings(BaseSettings):
    """Limits and places. Each field is set by PETIOLE_ and its name in capitals; durations as seconds or ISO 8601."""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_", frozen=True, env_ignore_empty=True)

    broker_url: str | None = Field(default=None, description="the broker: redis://… or amqp://…")
    result_url: str | None = Field(default=None, description="where Celery keeps results; by default the state store")
    home: Path = Field(default=Path(".petiole"), description="folder of the embedded broker and of beat's schedule")
    transport: Literal["petiole", "stock"] = Field(
        default="petiole", description="stock: kombu's own transport for Redis, which loses messages of killed workers"
    )
    visibility_timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="how long a lease lasts that is not renewed; 15 s"
    )
    tick_interval_s: Interval = Field(default=60.0, description="seconds between ticks")
    metrics_interval_s: Interval = Field(default=60.0, description="seconds between metrics summaries")
    session_sweep_interval_s: Interval = Field(default=15.0, description="seconds between looks for idle sessions")
    state_url: str | None = Field(default=None, description="Redis for what is remembered; by default the broker")
    key_prefix: Annotated[str, Field(min_length=1)] = "petiole"

    # A raw frame of 1080p video (6.2 MB, as base64 8.3 MB) or three minutes of speech (16 kHz, 16 bit) just fit.
    max_event_bytes: Annotated[int, Field(gt=0)] = 8_388_608
    claim_check_bytes: Annotated[int, Field(gt=0)] = Field(
        default=65_536, description="an event above this travels without its content, which is stored once"
    )
    payload_age: Duration = Field(
        default=timedelta(days=7),
        description="how long a stored content outlives its last use: as long as a delivery may wait for its handler",
    )
    max_hops: Annotated[int, Field(gt=0)] = 16

    history_length: Annotated[int, Field(gt=0)] = Field(default=100_000, description="events kept in all")
    stream_history_length: Annotated[int, Field(gt=0)] = Field(default=2_000, description="events kept per stream")
    history_age: Duration = Field(default=timedelta(days=7), description="how long an event is kept")
    publish_window: Duration = Field(
        default=timedelta(hours=1), description="how long a repeated publish of one event is recognised"
    )
    block_timeout: Duration = Field(
        default=timedelta(seconds=10), description="how long a publisher waits for room in a full queue"
    )
    inbox_age: Duration = Field(
        default=timedelta(days=1), description="how long a redelivery of what was handled is recognised"
    )
    most_deaths: Annotated[int, Field(gt=0)] = Field(
        default=3, description="workers that may die of one delivery before it becomes a dead letter"
    )
    keep_expired: bool = Field(default=False, description="keep what came too late as a dead letter")
    effect_age: Duration = Field(
        default=timedelta(days=30), description="how long an idempotent function knows what it was called with"
    )

    draft_lease: Annotated[Duration, Field(ge=timedelta(seconds=1))] = Field(
        default=timedelta(seconds=5), description="how long whoever writes an answer may be silent before it is lost"
    )
    draft_age: Duration = Field(
        default=timedelta(days=1), description="how long the pieces of a stream's answers are kept after the last"
    )
    draft_length: Annotated[int, Field(gt=0)] = Field(default=10_000, description="pieces kept per stream")

    dead_letter_age: Duration = Field(
        default=timedelta(days=30), description="how long a dead letter is kept after it was last buried"
    )
    dead_letter_count: Annotated[int, Field(gt=0)] = Field(
        default=100_000, description="dead letters kept in all; what is above is dropped, the oldest first"
    )
    heartbeat_limit: Annotated[Duration, Field(ge=timedelta(seconds=1))] = Field(
        default=timedelta(seconds=5), description="how long a worker may be silent before it is taken for lost"
    )
    request_timeout: Duration = Field(
        default=timedelta(seconds=60), description="how long an answer is waited for where the request does not say"
    )

    session_idle_after: Duration = Field(
        default=timedelta(minutes=5), description="how long nothing happens in a session before it counts as idle"
    )
    session_end_after: Duration = Field(
        default=timedelta(minutes=30), description="how long nothing happens in a session before it ends"
    )
    session_buffer: Annotated[int, Field(gt=0)] = Field(default=200, description="last events kept of a session")
    session_memory_bytes: Annotated[int, Field(gt=0)] = Field(
        default=65_536, description="how much a session's working memory may hold, names and JSON"
    )

    @property
    def embedded_broker_url(self) -> str | None:
        """Where the embedded broker of this home listens; None where none was started."""
        try:
            return (self.home / "broker.url").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    @property
    def blob_age(self) -> timedelta:
        """How long contents stay: no shorter than the history that refers to them."""
        return max(self.payload_age, self.history_age)
