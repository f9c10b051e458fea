"""Spending caps: how much the answers of a conversation, of a user and of an account may cost within a window.

    PETIOLE_LLM_MAX_COST_PER_CONVERSATION, …_PER_USER, …_PER_ACCOUNT      in US dollars
    PETIOLE_LLM_COST_WINDOW_S                                             a day

Before an answer its expected cost is reserved, and afterwards replaced by what it cost. An answer that costs more than
expected may exceed a cap once. With a cap, a model without a known price is refused, because nothing could be counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petiole.events.catalog.llm import ModelFailure, Usage
from petiole.events.catalog.orchestrator import ModelRequestedEvent
from petiole.events.errors import Permanent, UsageError
from petiole.workers.llm.prices import cost_of
from petiole.workers.llm.provider import estimate_usage
from petiole.workers.llm.usage_limits import EXPECTED_OUTPUT_TOKENS, UNMETERED_MODELS, account_name
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    from petiole.workers.state.spending import Spending

_MICRO: Final = 1_000_000

_APOLOGIES: Final = {
    "conversation_cap_reached": "this conversation has used up what it may cost",
    "user_cap_reached": "you have used up what your answers may cost",
    "account_cap_reached": "the answers of all users together have used up what they may cost",
}


@dataclass(frozen=True, slots=True)
class ReservedCost:
    """The expected cost of an answer, reserved for its owners."""

    store: Spending
    owners: list[str]
    amount: int
    now_s: float
    window_s: float

    def settle(self, cost: float | None) -> None:
        """Replace the expected cost by the actual one; None: nothing was spent."""
        difference = round((cost or 0) * _MICRO) - self.amount
        if self.owners and difference:
            self.store.add(self.owners, difference, now_s=self.now_s, window_s=self.window_s)


def reserve_cost(store: Spending, provider: str, event: ModelRequestedEvent, now_s: float) -> ReservedCost:
    """Reserve the expected cost of an answer.

    Raises:
        Permanent: A cap is reached (conversation_cap_reached, user_cap_reached, account_cap_reached).
        UsageError: There is a cap, and the model has no known price (price_unknown).
    """
    settings = WorkerSettings()
    caps = {} if provider in UNMETERED_MODELS else _caps_of(provider, event, settings)
    window_s = settings.llm_cost_window_s
    if not caps:
        return ReservedCost(store, [], 0, now_s, window_s)
    model = settings.llm_model or provider
    expected = estimate_usage(event.content, "").input_tokens
    cost = cost_of(Usage(input_tokens=expected, output_tokens=EXPECTED_OUTPUT_TOKENS), provider, model, settings)
    if cost is None:
        raise _price_unknown(provider, model)
    amount = round(cost * _MICRO)
    limits = {owner: round(cap * _MICRO) for owner, (cap, _) in caps.items()}
    exceeded = store.reserve(limits, amount, now_s=now_s, window_s=window_s)
    if exceeded is not None:
        cap, scope = caps[exceeded]
        raise _cap_reached(scope, cap, window_s)
    return ReservedCost(store, list(caps), amount, now_s, window_s)


def cap_apology(failure: ModelFailure) -> str | None:
    """Write the apology for an answer that a cap refused; None for another failure."""
    reason = _APOLOGIES.get(failure.error_type)
    return reason and f"I am sorry, I cannot answer now: {reason}. Please try again later, or contact the operator."


def _caps_of(provider: str, event: ModelRequestedEvent, settings: WorkerSettings) -> dict[str, tuple[float, str]]:
    """Return the caps that apply: by owner, the most dollars and what is capped."""
    user, caps = event.context.user_id, dict[str, tuple[float, str]]()
    if settings.llm_max_cost_per_conversation is not None:
        caps[f"conversation:{event.stream_id}"] = (settings.llm_max_cost_per_conversation, "conversation")
    if settings.llm_max_cost_per_user is not None:
        # Without a user, a conversation is all that is known of who asks.
        owner = f"user:{user}" if user else f"user of:{event.stream_id}"
        caps[owner] = (settings.llm_max_cost_per_user, "user")
    if settings.llm_max_cost_per_account is not None:
        caps[f"account:{account_name(provider, settings)}"] = (settings.llm_max_cost_per_account, "account")
    return caps


def _cap_reached(scope: str, cap: float, window_s: float) -> Permanent:
    return Permanent(
        f"the answers of this {scope} may cost {cap:g} USD in {window_s:g} s; wait for the next window, or raise "
        f"PETIOLE_LLM_MAX_COST_PER_{scope.upper()}",
        code=f"{scope}_cap_reached",
    )


def _price_unknown(provider: str, model: str) -> UsageError:
    return UsageError(
        f"the price of {model} of {provider} is unknown, so its costs cannot be capped; set "
        "PETIOLE_LLM_INPUT_PRICE_PER_MILLION_TOKENS and PETIOLE_LLM_OUTPUT_PRICE_PER_MILLION_TOKENS",
        code="price_unknown",
    )
