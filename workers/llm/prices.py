"""Prices: what the tokens of an answer cost in US dollars.

The settings PETIOLE_LLM_…_PRICE_PER_MILLION_TOKENS come first. Otherwise the package `genai-prices`, which the extra
`openai` installs, knows the prices of public endpoints. It carries its data and asks no network. An endpoint that it
does not know has no price, whatever its model is called: a model of one's own does not cost what the public one does.
"""

from __future__ import annotations

from petiole.events.catalog.llm import Usage
from petiole.workers.settings import WorkerSettings

_PER_MILLION = 1_000_000
_OPENAI_URL = "https://api.openai.com/v1"


def cost_of(usage: Usage, provider: str, model: str, settings: WorkerSettings) -> float | None:
    """Compute the cost of an answer; None if its price is unknown. The first call takes a second."""
    input_price = settings.llm_input_price_per_million_tokens
    output_price = settings.llm_output_price_per_million_tokens
    if input_price is not None or output_price is not None:
        return (usage.input_tokens * (input_price or 0) + usage.output_tokens * (output_price or 0)) / _PER_MILLION
    if provider != "openai":
        return None
    return _published_cost(usage, model, settings.llm_base_url or settings.openai_base_url or _OPENAI_URL)


def _published_cost(usage: Usage, model: str, url: str) -> float | None:
    """Price the whole usage, because a token of a long prompt may cost more."""
    try:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - an extra; the import takes a second
        from genai_prices import calc_price  # noqa: PLC0415 - as above
    except ImportError:
        return None
    priced = PricedUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    try:
        return float(calc_price(priced, model_ref=model, provider_api_url=url).total_price)
    except LookupError:  # it does not know the endpoint, or the model there
        return None
