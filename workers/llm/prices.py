"""Prices: what the tokens of an answer cost in US dollars.

The settings PETIOLE_LLM_…_PRICE_PER_MILLION_TOKENS come first. Otherwise the package `genai-prices`, which the extra
`openai` installs, knows the prices of public endpoints. It carries its data and asks no network. An endpoint that it
does not know has no price, whatever its model is called: a model of one's own does not cost what the public one does.
"""

from __future__ import annotations

from functools import cache

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
    prices = _published_prices(model, settings.llm_base_url or settings.openai_base_url or _OPENAI_URL)
    return None if prices is None else usage.input_tokens * prices[0] + usage.output_tokens * prices[1]


@cache
def _published_prices(model: str, url: str) -> tuple[float, float] | None:
    """Look up the price of an input and of an output token."""
    try:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - an extra; the import takes a second
        from genai_prices import calc_price  # noqa: PLC0415 - as above
    except ImportError:
        return None
    try:
        input_price = calc_price(PricedUsage(input_tokens=1_000), model_ref=model, provider_api_url=url).total_price
        output_price = calc_price(PricedUsage(output_tokens=1_000), model_ref=model, provider_api_url=url).total_price
    except LookupError:  # it does not know the endpoint, or the model there
        return None
    return float(input_price) / 1_000, float(output_price) / 1_000
