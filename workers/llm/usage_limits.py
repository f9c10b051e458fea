"""Limit and record the usage of a model: circuit breaker, rate limit of its account, cost.

The circuit breaker is named `llm.<model>`. So is the account, unless PETIOLE_LLM_ACCOUNT names another. `rules` has
neither.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from petiole.events.catalog.llm import GeneratedResponse, Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.catalog.usage import RecordedUsage
from petiole.tasks import RateLimit, guarded
from petiole.workers.llm.prices import cost_of
from petiole.workers.llm.provider import ResponseBuilder, estimate_usage
from petiole.workers.settings import WorkerSettings

UNMETERED_MODELS = {"rules"}

EXPECTED_OUTPUT_TOKENS = 500
"""Output tokens that are reserved before an answer. Afterwards the tokens that it used are recorded instead."""


@asynccontextmanager
async def limit_usage(
    model: str, request: ModelRequest, answer: ResponseBuilder, timeout_s: float
) -> AsyncIterator[None]:
    """Call a model in this block, within its circuit breaker and the rate limit of its account.

    Raises:
        ServiceUnavailable: The circuit is open.
        RetryLater: The endpoint asked for a pause (service_throttled).
        RateLimitExceeded: The account has no tokens or requests left in this window.
        UsageError: The request is larger than the rate limit (invalid_option).
    """
    if model in UNMETERED_MODELS:
        yield
        return
    async with guarded(f"llm.{_topic_word(model)}", timeout=timeout_s):
        settings = WorkerSettings()
        estimate = total_tokens(estimate_usage(request, "")) + EXPECTED_OUTPUT_TOKENS
        budget = _budget(model, settings, timeout_s)
        async with await budget.reserve_async(tokens=_cap_to_quota(estimate, settings)) as reserved:
            try:
                yield
            except asyncio.CancelledError:
                # The provider charges for the input and for the text that was written before the cancellation.
                reserved.record_usage(total_tokens(estimate_usage(request, answer.text)))
                raise
            if answer.finished and total_tokens(answer.finished.usage):
                reserved.record_usage(total_tokens(answer.finished.usage))


def build_usage_record(provider: str, response: GeneratedResponse, request: ModelRequest) -> RecordedUsage | None:
    """Build the record of an answer's usage, with its cost if its price is known; None for a model without usage.

    The tokens of an endpoint that does not count them are estimated.
    """
    if provider in UNMETERED_MODELS:
        return None
    settings = WorkerSettings()
    usage = response.usage if total_tokens(response.usage) else estimate_usage(request, response.text)
    cost = cost_of(usage, provider, response.model, settings)
    return RecordedUsage(
        provider=provider,
        model=response.model,
        account=account_name(provider, settings),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=cost,
        currency="USD" if cost is not None else None,
    )


def total_tokens(usage: Usage) -> int:
    """Add up input and output tokens."""
    return usage.input_tokens + usage.output_tokens


def _budget(model: str, settings: WorkerSettings, timeout_s: float) -> RateLimit:
    return RateLimit(
        account_name(model, settings),
        requests=settings.llm_max_requests_per_minute,
        tokens=settings.llm_max_tokens_per_minute,
        timeout=timeout_s,
    )


def _cap_to_quota(estimate: int, settings: WorkerSettings) -> int:
    # The output is a guess. Without the cap, an account with a smaller quota would refuse every request.
    return min(estimate, settings.llm_max_tokens_per_minute or estimate)


def account_name(model: str, settings: WorkerSettings) -> str:
    """Return the account of a model."""
    return settings.llm_account or f"llm.{_topic_word(model)}"


def _topic_word(name: str) -> str:
    """Encode a model's name as a word of a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_") or "model"
