"""What a call to a model is held to, and what it costs: its circuit breaker, its account's budget, its price.

The breaker is `llm.<model>`, as is the account where PETIOLE_LLM_ACCOUNT names no other. `rules` has neither.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from petiole.events.catalog.llm import Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.catalog.usage import RecordedUsage
from petiole.tasks import Budget, guarded
from petiole.workers.llm.provider import Answer, estimated_usage

_FREE = {"rules"}
_PER_MILLION = 1_000_000


class AccountSettings(BaseSettings):
    """Quotas and prices of the model that is chosen; read from the environment as PETIOLE_LLM_…"""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_LLM_", env_ignore_empty=True, frozen=True)

    account: str | None = Field(default=None, description="whose quota it is; models that share it share that")
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    expected_tokens: int = Field(default=500, ge=0, description="how much an answer is taken to write beforehand")
    input_price: float | None = Field(default=None, ge=0, description="of a million tokens read")
    output_price: float | None = Field(default=None, ge=0, description="of a million tokens written")
    currency: str = Field(default="USD", min_length=1)


@asynccontextmanager
async def held_to_account(model: str, request: ModelRequest, answer: Answer, timeout_s: float) -> AsyncIterator[None]:
    """Call a model in this block: through its breaker, and on its account's budget, which is settled at the end.

    Raises: ServiceUnavailable, RetryLater (service_throttled), RateLimitExceeded; UsageError (invalid_option) where the
    budget never has that room.
    """
    if model in _FREE:
        yield
        return
    async with guarded(f"llm.{_word(model)}", timeout=timeout_s):
        settings = AccountSettings()
        estimate = total(estimated_usage(request, "")) + settings.expected_tokens
        budget = _budget(model, settings, timeout_s)
        async with await budget.reserve_async(tokens=_affordable(estimate, settings)) as reserved:
            try:
                yield
            except asyncio.CancelledError:
                # It was asked, and what it wrote by then is paid for.
                reserved.used(total(estimated_usage(request, answer.text)))
                raise
            if answer.finished and total(answer.finished.usage):
                reserved.used(total(answer.finished.usage))


def recorded(provider: str, model: str, usage: Usage) -> RecordedUsage | None:
    """Word what an answer used, and its cost where there is a price; None where nothing was counted."""
    settings = AccountSettings()
    if not total(usage):
        return None
    cost = cost_of(usage, settings)
    return RecordedUsage(
        provider=provider,
        model=model,
        account=_account(provider, settings),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=cost,
        currency=settings.currency if cost is not None else None,
    )


def cost_of(usage: Usage, settings: AccountSettings) -> float | None:
    """Tell what tokens cost; None where no price is set."""
    if settings.input_price is None and settings.output_price is None:
        return None
    read, written = settings.input_price or 0.0, settings.output_price or 0.0
    return (usage.input_tokens * read + usage.output_tokens * written) / _PER_MILLION


def total(usage: Usage) -> int:
    """Add up what was read and written."""
    return usage.input_tokens + usage.output_tokens


def _budget(model: str, settings: AccountSettings, timeout_s: float) -> Budget:
    return Budget(
        _account(model, settings),
        requests=settings.requests_per_minute,
        tokens=settings.tokens_per_minute,
        timeout=timeout_s,
    )


def _affordable(estimate: int, settings: AccountSettings) -> int:
    # What is written is a guess: a quota below it is no reason to refuse for ever.
    return min(estimate, settings.tokens_per_minute or estimate)


def _account(model: str, settings: AccountSettings) -> str:
    return settings.account or f"llm.{_word(model)}"


def _word(name: str) -> str:
    """Write a model's name as a word of a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_") or "model"
