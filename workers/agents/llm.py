"""Llm: has a language model write the answer. Which one, PETIOLE_LLM says."""

from __future__ import annotations

from functools import cache

from events.catalog.llm import ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from events.catalog.orchestrator import ModelRequestedEvent
from events.errors import Misuse, Permanent, PetioleError, ProviderUnavailable, Retryable
from tasks import Agent
from workers.llm import LanguageModel, chosen_name, language_model

agent = Agent("llm")


@agent.on("orchestrator.llm.requested")
def answer(event: ModelRequestedEvent) -> ResponseGeneratedEvent | ResponseFailedEvent:
    """Have the answer written; a model that cannot is told as a failure, so that the user hears something."""
    name = chosen_name()
    try:
        response = _model_named(name).answer(event.content)
    except (Misuse, Permanent, ProviderUnavailable) as error:
        return event.caused(ResponseFailedEvent, content=failure_of(name, error))
    return event.caused(ResponseGeneratedEvent, content=response)


# Made when it is first asked, in the process that asks: a client's connections do not survive a fork.
@cache
def _model_named(name: str) -> LanguageModel:
    return language_model(name)


def failure_of(model: str, error: PetioleError) -> ModelFailure:
    """Word why a model gave no answer."""
    return ModelFailure(
        model=model,
        error_type=type(error).__name__,
        error=str(error),
        is_retryable=isinstance(error, Retryable),
    )
