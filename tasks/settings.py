"""Settings of the backbone. The environment variable of a field is PETIOLE_ and its name in capitals: docs/settings.md.

Durations are numbers of seconds (`_S`): `_RETENTION_S` is how long something is kept, `_TIMEOUT_S` the longest wait.
Sizes end in `_BYTES`; upper limits begin with `MAX_`. A bus reads its settings when they are first used. Celery's own
settings are in celery.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from petiole.events.errors import UsageError
from petiole.events.ids import PUBLISHER_NAME
from petiole.events.redaction import DEFAULT_HOOK

PREFIX = "PETIOLE_"
DEFAULT_KEY_PREFIX = "petiole"
DAY_S = 86_400.0
_KEY_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHORTEST_INTERVAL_S = 0.1


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseSettings)


class _SettingsMeta(ModelMetaclass):
    """Makes one instance for as long as the environment is the same: handlers ask for one with each event."""

    # Hidden from type checkers, which derive the arguments from the fields.
    if not TYPE_CHECKING:

        def __call__(cls, **values: Any) -> Any:  # noqa: N805 - of a metaclass
            return super().__call__(**values) if values else _read_environment(cls, tuple(os.environ.items()))


@lru_cache(maxsize=8)
def _read_environment(settings_class: type[BaseSettings], _: tuple[tuple[str, str], ...]) -> BaseSettings:
    instance: BaseSettings = ModelMetaclass.__call__(settings_class)
    return instance


class EnvironmentSettings(BaseSettings, metaclass=_SettingsMeta):
    """Base of Petiole's settings models. Raises UsageError for an invalid value; it names the variable."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        defer_build=True,
    )

    # Hidden from type checkers, which derive the arguments from the fields.
    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise UsageError(_first_problem(type(self), error)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments and the environment only; without a file, the same environment is the same settings."""
        return init_settings, env_settings


def _checked_interval(seconds: float) -> float:
    if seconds != 0 and not _SHORTEST_INTERVAL_S <= seconds <= DAY_S:
        raise ValueError(f"give seconds from {_SHORTEST_INTERVAL_S} to {DAY_S:.0f}, or 0 to switch it off")
    return seconds


def _checked_prefix(prefix: str) -> str:
    if not _KEY_PREFIX.fullmatch(prefix):
        raise ValueError("use letters, digits, '.', '_' and '-', at most 64 characters, the first a letter or digit")
    return prefix


KeyPrefix = Annotated[str, AfterValidator(_checked_prefix)]
"""Without a colon: no key of one prefix begins with another prefix and a colon."""


def _split_names(value: object) -> object:
    """Split a string at commas."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)]
"""Names, separated by commas in the environment."""

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Interval = Annotated[float, AfterValidator(_checked_interval)]
"""Seconds between two runs of a periodic task; 0 switches it off."""


class Settings(EnvironmentSettings):
    """Settings of one event bus, in the order of the stages that an event passes."""

    # Addresses
    broker_url: str | None = Field(
        default=None, repr=False, description="The broker: `redis://…`, `unix://…`, `sentinel://…` or `amqp://…`."
    )
    state_url: str | None = Field(
        default=None, repr=False, description="Redis or Sentinel of the state store; by default the broker."
    )
    max_state_connections: Count = Field(
        default=100,
        description="Most connections of a process to the state store. More threads wait for a free one.",
    )
    key_prefix: KeyPrefix = Field(
        default=DEFAULT_KEY_PREFIX,
        description="Prefix of all keys in Redis, also of the queues: apps with different prefixes share a database "
        "and never each other's events. On RabbitMQ, give each app a virtual host of its own.",
    )
    home: Path = Field(default=Path(".petiole"), description="Folder of the embedded broker and of beat's schedule.")

    # Event types
    event_types: Names = Field(
        default=(), description="Modules with your own event types, separated by commas; every process loads them."
    )

    # Publishing. A raw frame of 1080p video (6.2 MB, as base64 8.3 MB) or three minutes of speech (16 kHz, 16 bit)
    # just fit into the largest event.
    max_event_bytes: Count = Field(default=8_388_608, description="Largest event that may be published.")
    claim_check_threshold_bytes: Count = Field(
        default=65_536, description="The content of a larger event is stored once, and messages carry a reference."
    )
    deduplication_window_s: Seconds = Field(
        default=3_600.0, description="How long a repeated publish of the same event is recognized and ignored."
    )
    queue_full_timeout_s: Seconds = Field(
        default=10.0, description="How long a publisher waits for room in a full queue (overflow `block`)."
    )
    max_history_events: Count = Field(default=100_000, description="Events kept in the history.")
    history_retention_s: Seconds = Field(default=7 * DAY_S, description="How long an event is kept in the history.")
    redact: str = Field(
        default=DEFAULT_HOOK,
        min_length=1,
        description="The function `package.module:function` that takes secrets out of texts before they are logged, or "
        "kept in history, sessions and memory; `none` keeps them.",
    )

    # Trust
    publisher: Annotated[str, Field(pattern=PUBLISHER_NAME)] | None = Field(
        default=None,
        description="The name under which this process publishes; by default the agent whose handler runs, and "
        "`service` elsewhere.",
    )
    policy: str = Field(
        default="default",
        min_length=1,
        description="Who may publish and hear which topics: a TOML file, `default`, or `none`.",
    )
    signing_keys: Path | None = Field(
        default=None, description="TOML file with the keys that sign and check events, by publisher."
    )

    # Consuming
    transport: Literal["petiole", "kombu"] = Field(
        default="petiole",
        description="`kombu` is kombu's own transport for Redis, which loses messages of killed workers.",
    )
    remote_control: Literal["limited", "all"] = Field(
        default="limited",
        description="Whether Celery's remote control may end workers by a broadcast (`all`), or only those it names.",
    )
    visibility_timeout_s: Seconds = Field(
        default=15.0, description="How long a lease on a message lasts unless its worker renews it."
    )
    heartbeat_timeout_s: Annotated[float, Field(ge=1)] = Field(
        default=5.0, description="A worker or stream writer without a heartbeat for this long is considered lost."
    )

    stall_timeout_s: Annotated[float, Field(ge=1)] = Field(
        default=30.0,
        description="A worker that begins no delivery for this long, while some wait for it, is unhealthy.",
    )
    max_parked: Count = Field(
        default=100_000,
        description="Deliveries that may wait for a handler or event type that no worker has; more are dead-lettered.",
    )

    # Handling and settlement
    max_hops: Count = Field(
        default=16, description="Longest chain of events from the first event of a flow to a handled one."
    )
    max_events_per_delivery: Count = Field(
        default=1_000,
        description="The most events that a handler may publish for one event. They are committed in one step, during "
        "which Redis serves nobody.",
    )
    max_delivery_crashes: Count = Field(
        default=3, description="A delivery that has crashed this many workers becomes a dead letter."
    )
    dead_letter_expired: bool = Field(default=False, description="Whether expired deliveries become dead letters.")
    inbox_retention_s: Seconds = Field(
        default=DAY_S, description="How long a redelivery of a handled event is recognized."
    )
    idempotency_retention_s: Seconds = Field(
        default=30 * DAY_S, description="How long the result of an idempotent call is kept."
    )
    dead_letter_retention_s: Seconds = Field(
        default=30 * DAY_S, description="How long a dead letter is kept after its last failure."
    )
    max_dead_letters: Count = Field(
        default=100_000, description="Dead letters kept; the oldest above this number are dropped."
    )

    # Requests, sessions, response streams
    request_timeout_s: Seconds = Field(default=60.0, description="Default timeout of a request.")
    session_idle_timeout_s: Seconds = Field(
        default=300.0, description="A session without events for this long is idle."
    )
    session_end_timeout_s: Seconds = Field(default=1_800.0, description="A session without events for this long ends.")
    max_session_memory_bytes: Count = Field(
        default=65_536, description="Largest working memory of a session: names and JSON values."
    )
    max_response_stream_chunks: Count = Field(
        default=10_000, description="Chunks kept of the response streams of a conversation."
    )

    # Traces
    delivery_spans: Literal["child", "link"] = Field(
        default="child",
        description="Whether the span of a delivery is a child of its event's span, or starts a trace of its own with "
        "a link to it. Deliveries of requests are always children.",
    )

    # Periodic tasks
    tick_interval_s: Interval = Field(default=60.0, description="Time between ticks; 0 for none.")
    metrics_interval_s: Interval = Field(default=60.0, description="Time between metrics summaries; 0 for none.")

    # Metrics
    metrics: bool = Field(
        default=False, description="Whether events are counted: `petiole metrics`, and the figures of a summary."
    )
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None,
        description="A worker serves `/metrics`, `/alive` and `/ready` at this port, and events are counted.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address at which metrics and probes are served."
    )
    metrics_namespace: Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")] = Field(
        default="petiole", description="First word of the names of all metrics."
    )

    @property
    def counts_events(self) -> bool:
        """Whether this process counts events."""
        return self.metrics or self.metrics_port is not None

    @property
    def queue_prefix(self) -> str:
        """The prefix of Celery's and kombu's keys in Redis; none by default, for clients without Petiole."""
        return "" if self.key_prefix == DEFAULT_KEY_PREFIX else f"{self.key_prefix}:celery:"

    @property
    def embedded_broker_url(self) -> str | None:
        """The address of the embedded broker of this home folder; None if none was started."""
        try:
            return (self.home / "broker.url").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None


def variable_of(model: type[BaseSettings], field: str) -> str:
    """Return the environment variable of a field."""
    alias = model.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field.upper()}"


def default_of(field: FieldInfo) -> str:
    """Format a default as the variable's value; empty if there is none."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    if default is None or default == {}:
        return ""
    return f"{default:.15g}" if isinstance(default, float) else str(default)


def unknown_variables(environment: Mapping[str, str], models: Iterable[type[BaseSettings]]) -> Iterator[str]:
    """Build a warning for each PETIOLE_ variable that no model reads, with the nearest known name."""
    known = [variable_of(model, field) for model in models for field in model.model_fields]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "docs/settings.md lists all settings"
            yield f"Petiole has no setting {name}, so it has no effect; {hint}"


def _first_problem(model: type[BaseSettings], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])
    by_variable = {variable_of(model, field): field for field in model.model_fields}
    field = by_variable.get(name, name)
    if field not in model.model_fields:
        return f"{model.__name__} has no field {name!r}"
    described = model.model_fields[field]
    # `repr=False` marks a secret.
    value = repr(str(problem["input"])) if described.repr else "not usable"
    reason = problem["msg"].removeprefix("Value error, ")
    default = default_of(described)
    remedy = "change it, or unset it" + (f" for the default, {default}" if default else "")
    return f"{variable_of(model, field)} is {value}: {reason[:1].lower()}{reason[1:]}; {remedy}"
