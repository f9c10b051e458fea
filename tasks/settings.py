"""Settings of the journey, read from the environment as PETIOLE_…; Celery's own are in celeryconfig.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _as_seconds(said: object) -> object:
    try:
        return float(said) if isinstance(said, str) else said
    except ValueError:
        return said


Duration = Annotated[timedelta, BeforeValidator(_as_seconds), Field(gt=timedelta(0))]
"""More than nothing; the environment gives seconds, or ISO 8601 such as PT5M."""


class Settings(BaseSettings):
    """Limits and places. Each field is set by PETIOLE_ and its name in capitals; durations as seconds or ISO 8601."""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_", frozen=True)

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

    approval_timeout: Duration = Field(
        default=timedelta(hours=1), description="how long somebody may take to grant or deny a tool's call"
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
    def blob_age(self) -> timedelta:
        """How long contents stay: no shorter than the history that refers to them."""
        return max(self.payload_age, self.history_age)
