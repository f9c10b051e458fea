"""Settings of the bundled agents, models, tools, retrieval, channels and processes: docs/settings.md.

Named as those of the backbone (tasks/settings.py). They are read where they are used, and none while a module is
imported: `WorkerSettings()` reads the environment. Only `petiole.workers.celery`, which Celery loads to start a
process, reads them at once. Subscriptions whose options are settings are made when an agent is first included in a
bus: `@agent.on_include`.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AnyHttpUrl, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from petiole.events.subscriptions import OnBusy
from petiole.tasks.settings import Count, EnvironmentSettings, Interval, Seconds, Settings, unknown_variables

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no password
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64  # as the specification asks; the library does not check it


def _names(value: object) -> object:
    """Divide names at commas."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _validate_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_SECRET_PREFIX) or not _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES:
        raise ValueError(
            f"give {_SECRET_PREFIX} followed by {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} bytes as base64"
        )
    return secret


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
"""Names, separated by commas in the environment."""

Occurrences = Annotated[int, Field(ge=2)]
Price = Annotated[float, Field(ge=0)]


class WorkerSettings(EnvironmentSettings):
    """Settings of a process of the bundled agents, in the order in which a message meets them."""

    # Processes
    agents: Names = Field(
        default=("petiole.workers.agents",),
        min_length=1,
        description="Modules and packages with the agents of this process, separated by commas.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Form of the log's lines: `console` or `json`."
    )
    operator: str | None = Field(
        default=None, description="Who grants, denies, replays or edits at the command line; by default user@host."
    )

    # Orchestrator
    context_timeout_s: Annotated[float, Field(gt=0, le=604_800)] = Field(
        default=10.0, description="How long the model's request waits for memories and for planned tools."
    )
    tools_timeout_s: Seconds = Field(default=120.0, description="How long a model waits for the tools that it called.")
    max_tool_rounds: int = Field(
        default=4, ge=0, description="How often a model may call tools for one message; 0 for never."
    )

    # Memory and retrieval
    retrieval: Literal["keyword", "semantic"] = Field(
        default="keyword",
        description="How memories are found: `keyword`, or `semantic`, which needs the extra `memory`.",
    )
    consolidation_interval_s: Interval = Field(
        default=3_600.0, description="Time between two consolidations of the memory; 0 for none."
    )

    # Tools
    tools: Names = Field(default=(), description="Modules with tools of your own, separated by commas.")
    mcp_servers: Path | None = Field(default=None, description="File that lists MCP servers, JSON or TOML.")
    approval_timeout_s: Seconds = Field(
        default=3_600.0, description="How long a tool call that needs approval waits for a decision."
    )

    # Language models
    llm: str = Field(
        default="rules",
        min_length=1,
        description="The language model: `rules`, `openai`, `local`, or `package.module:Class` of your own.",
    )
    llm_model: str | None = Field(default=None, description="The model that the endpoint is asked for.")
    llm_base_url: str | None = Field(default=None, description="The endpoint; OpenAI's, or the local one, by default.")
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY", repr=False, description="Key of the endpoint."
    )
    openai_base_url: str | None = Field(
        default=None,
        validation_alias="OPENAI_BASE_URL",
        description="The endpoint, if PETIOLE_LLM_BASE_URL is unset.",
    )
    llm_on_busy: OnBusy | None = Field(
        default=None, description="What the user's next message does to an answer: `interrupt`, `enqueue`, `reject`."
    )
    llm_timeout_s: Seconds = Field(default=30.0, description="How long the endpoint may be silent.")
    llm_answer_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=300.0, description="How long one answer may take."
    )
    llm_retry_timeout_s: Seconds = Field(
        default=120.0, description="How long a deferred request is tried again before it has failed."
    )
    llm_account: str | None = Field(
        default=None, description="Account whose limits count; by default one per model, `llm.<model>`."
    )
    llm_max_requests_per_minute: Count | None = Field(default=None, description="Limit of the account.")
    llm_max_tokens_per_minute: Count | None = Field(default=None, description="Limit of the account.")
    llm_input_price_per_million_tokens: Price | None = Field(default=None, description="US dollars.")
    llm_output_price_per_million_tokens: Price | None = Field(default=None, description="US dollars.")

    # Channels
    terminal_channel: bool = Field(default=False, description="Write answers to the worker's output too.")
    webhook_url: AnyHttpUrl | None = Field(default=None, description="Where answers are posted; without it nowhere.")
    webhook_secret: Annotated[SecretStr, AfterValidator(_validate_secret)] | None = Field(
        default=None, repr=False, description="`whsec_` and 24 to 64 bytes as base64, shared with the receiver."
    )
    webhook_timeout_s: Annotated[float, Field(gt=0, le=120)] = Field(
        default=10.0, description="How long the receiver may be silent."
    )

    # Proactive
    proactive_min_occurrences: Occurrences = Field(
        default=3, description="A question or failure that comes so often within the window is a pattern."
    )
    proactive_window_s: Seconds = Field(default=600.0, description="Window in which they are counted.")
    proactive_cooldown_s: Seconds = Field(
        default=3_600.0, description="How long a user hears nothing more about the same pattern."
    )


MODELS: Final = (Settings, WorkerSettings)


def unknown_settings() -> list[str]:
    """Word a warning for each PETIOLE_ variable of the environment that is no setting."""
    return list(unknown_variables(os.environ, MODELS))
