"""What a call to a model is held to, and what it costs: its circuit breaker, its account's budget, its price.

The breaker is `llm.<model>`, as is the account where PETIOLE_LLM_ACCOUNT names no other. `rules` has neither.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from petiole.events.catalog.llm import Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.catalog.usage import RecordedUsage
from petiole.tasks import Budget, guarded
from petiole.workers.llm.provider import Answer, estimated_usage
from petiole.workers.settings import WorkerSettings

_FREE = {"rules"}
_PER_MILLION = 1_000_000

EXPECTED_OUTPUT_TOKENS = 500
"""How many tokens of an answer are reserved before it is written; then those that were used count."""


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
        settings = WorkerSettings()
        estimate = total(estimated_usage(request, "")) + EXPECTED_OUTPUT_TOKENS
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
    settings = WorkerSettings()
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
        currency="USD" if cost is not None else None,
    )


def cost_of(usage: Usage, settings: WorkerSettings) -> float | None:
    """Tell what tokens cost; None where no price is set."""
    input_price = settings.llm_input_price_per_million_tokens
    output_price = settings.llm_output_price_per_million_tokens
    if input_price is None and output_price is None:
        return None
    return (usage.input_tokens * (input_price or 0) + usage.output_tokens * (output_price or 0)) / _PER_MILLION


def total(usage: Usage) -> int:
    """Add up what was read and written."""
    return usage.input_tokens + usage.output_tokens


def _budget(model: str, settings: WorkerSettings, timeout_s: float) -> Budget:
    return Budget(
        _account(model, settings),
        requests=settings.llm_max_requests_per_minute,
        tokens=settings.llm_max_tokens_per_minute,
        timeout=timeout_s,
    )


def _affordable(estimate: int, settings: WorkerSettings) -> int:
    # What is written is a guess: a quota below it is no reason to refuse for ever.
    return min(estimate, settings.llm_max_tokens_per_minute or estimate)


def _account(model: str, settings: WorkerSettings) -> str:
    return settings.llm_account or f"llm.{_word(model)}"


def _word(name: str) -> str:
    """Write a model's name as a word of a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_") or "model"
