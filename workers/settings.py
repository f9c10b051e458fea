"""Settings of the bundled agents, models, tools, retrieval, channels and processes: docs/settings.md.

Names follow the rules of tasks/settings.py. `WorkerSettings()` reads the environment. Code calls it where it uses a
setting, and not while a module is imported; only `petiole.workers.celery`, which Celery imports to start a process,
reads settings at import. A subscription whose options are settings is created when its agent is first included in a
bus: `@agent.on_include`.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AnyHttpUrl, Field, SecretStr

from petiole.events.subscriptions import OnBusy
from petiole.tasks.settings import Count, EnvironmentSettings, Interval, Names, Seconds, Settings, unknown_variables

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a prefix, not a password
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64  # the range of Standard Webhooks; its library does not check it


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


def _validate_issuer(address: str) -> str:
    parts = urlsplit(address)
    is_local = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1"}
    if not parts.hostname or (parts.scheme != "https" and not is_local):
        raise ValueError("give its https:// address, as in the claim `iss` of its tokens")
    return address


Occurrences = Annotated[int, Field(ge=2)]
Price = Annotated[float, Field(ge=0)]


class WorkerSettings(EnvironmentSettings):
    """Settings of the bundled agents, in the order in which a message passes through them."""

    # Processes
    agents: Names = Field(
        default=("petiole.workers.agents",),
        min_length=1,
        description="Modules and packages with the agents of this process, separated by commas.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Format of log lines: `console` or `json`."
    )
    operator: str | None = Field(
        default=None, description="Name that the command line and the console record for changes; by default user@host."
    )

    # Orchestrator
    context_timeout_s: Annotated[float, Field(gt=0, le=604_800)] = Field(
        default=10.0, description="How long a model request waits for memories and planned tools."
    )
    tools_timeout_s: Seconds = Field(default=120.0, description="How long a model waits for the tools it called.")
    max_tool_rounds: int = Field(
        default=4, ge=0, description="Most tool rounds of a model for one message; 0 disables tool calls."
    )

    # Memory and retrieval
    context_max_tokens: Annotated[int, Field(ge=0)] = Field(
        default=1_500,
        description="Most tokens of the conversation so far in a model request; 0 gives the model only the message.",
    )
    retrieval: Literal["keyword", "semantic"] = Field(
        default="keyword",
        description="Memory search: `keyword`, or `semantic`, which needs the extra `memory`.",
    )
    consolidation_interval_s: Interval = Field(
        default=3_600.0, description="Time between memory consolidations; 0 for none."
    )

    # Tools
    tools: Names = Field(default=(), description="Modules with your own tools, separated by commas.")
    mcp_servers: Path | None = Field(default=None, description="File that lists MCP servers, JSON or TOML.")
    approval_timeout_s: Seconds = Field(
        default=3_600.0, description="How long a tool call that needs approval waits for a decision."
    )

    # Voice
    transcriber: str = Field(
        default="pocketsphinx",
        min_length=1,
        description="Speech to text: `pocketsphinx`, `faster_whisper`, or your own as `package.module:Class`.",
    )
    synthesizer: str = Field(
        default="espeak_ng",
        min_length=1,
        description="Text to speech: `espeak_ng`, `flite`, `piper`, or your own as `package.module:Class`.",
    )
    turn_detection: Literal["silence", "smart_turn"] = Field(
        default="silence",
        description="What ends a turn: `silence`, or `smart_turn`, a model that hears whether a sentence is whole.",
    )
    turn_silence_s: Annotated[float, Field(ge=0.3, le=10)] = Field(
        default=0.8, description="With `silence`, a pause of the user this long ends the turn."
    )
    audio_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = Field(
        default=1.0,
        description="How long a missing audio chunk is waited for, and how long speech waits for its next chunk.",
    )

    # Language models
    llm: str = Field(
        default="rules",
        min_length=1,
        description="The language model: `rules`, `openai`, `local`, or your own as `package.module:Class`.",
    )
    llm_model: str | None = Field(default=None, description="Name of the model at the endpoint.")
    llm_base_url: str | None = Field(
        default=None, description="URL of the endpoint; by default OpenAI's, or that of the local model."
    )
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY", repr=False, description="API key of the endpoint."
    )
    openai_base_url: str | None = Field(
        default=None,
        validation_alias="OPENAI_BASE_URL",
        description="URL of the endpoint, if PETIOLE_LLM_BASE_URL is not set.",
    )
    llm_on_busy: OnBusy | None = Field(
        default=None,
        description="What a new message does to an answer that is being written: `interrupt`, `enqueue`, `reject`.",
    )
    llm_timeout_s: Seconds = Field(default=30.0, description="How long the endpoint may be silent.")
    llm_answer_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=300.0, description="How long one answer may take."
    )
    llm_retry_timeout_s: Seconds = Field(
        default=120.0, description="How long a request that is deferred is retried before it fails."
    )
    llm_account: str | None = Field(
        default=None, description="Account that the rate limits apply to; by default one per model, `llm.<model>`."
    )
    llm_max_requests_per_minute: Count | None = Field(default=None, description="Requests allowed for the account.")
    llm_max_tokens_per_minute: Count | None = Field(default=None, description="Tokens allowed for the account.")
    llm_input_price_per_million_tokens: Price | None = Field(default=None, description="Price in US dollars.")
    llm_output_price_per_million_tokens: Price | None = Field(default=None, description="Price in US dollars.")

    llm_max_cost_per_conversation: Price | None = Field(
        default=None, description="Most US dollars that the answers of a conversation may cost in the window."
    )
    llm_max_cost_per_user: Price | None = Field(
        default=None, description="Most US dollars that the answers to a user may cost in the window."
    )
    llm_max_cost_per_account: Price | None = Field(
        default=None, description="Most US dollars that the answers of the account may cost in the window."
    )
    llm_cost_window_s: Seconds = Field(default=86_400.0, description="Window in which costs are added up; a day.")

    # Channels
    operator_stream: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="operators", description="Stream to which calls for a person are sent, by every channel."
    )
    terminal_channel: bool = Field(default=False, description="Also write answers to the worker's standard output.")
    webhook_url: AnyHttpUrl | None = Field(
        default=None, repr=False, description="URL to which answers are posted; unset disables the webhook."
    )
    webhook_secret: Annotated[SecretStr, AfterValidator(_validate_secret)] | None = Field(
        default=None, repr=False, description="`whsec_` and 24 to 64 bytes as base64, shared with the receiver."
    )
    webhook_timeout_s: Annotated[float, Field(gt=0, le=120)] = Field(
        default=10.0, description="How long one post may take, to the receiver's status."
    )
    webhook_allow_http: bool = Field(
        default=False, description="Whether PETIOLE_WEBHOOK_URL may be `http://` beyond this host."
    )

    inbound_webhooks: dict[str, Annotated[SecretStr, AfterValidator(_validate_secret)]] = Field(
        default_factory=dict, repr=False, description="Secrets of received webhooks by source, as a JSON object."
    )

    # Gateways
    oidc_issuer: Annotated[str, AfterValidator(_validate_issuer)] | None = Field(
        default=None, description="OpenID Connect issuer whose tokens the gateways and the console accept."
    )
    oidc_audience: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Audience that a token must have; needed with PETIOLE_OIDC_ISSUER."
    )
    oidc_user_claim: Annotated[str, Field(min_length=1)] = Field(
        default="sub", description="Claim of a token with the user whose streams the caller may use."
    )
    oidc_role_claim: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Claim with the role, or a list of roles, such as `realm_access.roles`; by default all are users.",
    )
    push_hosts: Names = Field(
        default=(),
        description="Hosts to which A2A push notifications may be posted, separated by commas; `*` for all with public "
        "addresses.",
    )

    # Proactive
    proactive_min_occurrences: Occurrences = Field(
        default=3, description="Occurrences of a question or failure within the window that make a pattern."
    )
    proactive_window_s: Seconds = Field(default=600.0, description="Window in which occurrences are counted.")
    proactive_cooldown_s: Seconds = Field(
        default=3_600.0, description="How long no further suggestion about the same pattern is made to a user."
    )


MODELS: Final = (Settings, WorkerSettings)


def unknown_settings() -> list[str]:
    """Build a warning for each unknown PETIOLE_ variable in the environment."""
    return list(unknown_variables(os.environ, MODELS))
