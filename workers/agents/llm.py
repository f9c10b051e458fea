"""Llm: has a language model write the answer. Which one, PETIOLE_LLM says.

What the model writes can be read along (tasks/streaming/reader.py); the whole of it is the event. A model that cannot
be
reached is asked again, three times in all; one whose circuit is open, or whose budget is spent, is asked later, up to
PETIOLE_LLM_RETRY_TIMEOUT_S. Then, and where it refuses, the failure is told, so that the user hears something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from pydantic import ValidationError

from petiole.events.catalog.llm import GeneratedResponse, ModelFailure, ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ModelRequest, ModelRequestedEvent
from petiole.events.catalog.usage import UsageRecordedEvent
from petiole.events.errors import (
    Permanent,
    PetioleError,
    ProviderRefused,
    ProviderUnavailable,
    Retryable,
    RetryLater,
    StreamBusy,
    UsageError,
    error_type_of,
)
from petiole.events.event import Event
from petiole.tasks import Agent, Context, Draft, RetryPolicy
from petiole.workers.llm import LanguageModel, language_model
from petiole.workers.llm.provider import Answer, Part, ToolDescription
from petiole.workers.llm.usage_limits import held_to_account, recorded
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools import installed_tools

agent = Agent("llm")

RETRY = RetryPolicy(max_attempts=3)


async def answer(event: ModelRequestedEvent, context: Context) -> tuple[Event, ...]:
    """Have the answer written; a model that cannot is told as a failure, once trying again is over."""
    name = WorkerSettings().llm
    try:
        # Made before the draft begins: to import its library takes a second, in which nobody could vouch for the run.
        model = await asyncio.to_thread(_model_named, name)
        async with context.draft() as draft:
            response = await written(event.content, model, draft)
    except (UsageError, Permanent, StreamBusy) as error:
        return (event.caused(ResponseFailedEvent, content=failure_of(name, error)),)
    except (ProviderUnavailable, RetryLater) as error:
        if is_tried_again(error, event, context.attempt):
            raise
        return (event.caused(ResponseFailedEvent, content=failure_of(name, error)),)
    generated = event.caused(ResponseGeneratedEvent, content=response)
    usage = recorded(model.name, response.model, response.usage)
    return (generated, event.caused(UsageRecordedEvent, content=usage)) if usage else (generated,)


@agent.on_include
def subscribe_answer() -> None:
    """Subscribe `answer` with the configured `on_busy`."""
    agent.on("orchestrator.llm.requested", on_busy=WorkerSettings().llm_on_busy, retry=RETRY)(answer)


async def written(request: ModelRequest, model: LanguageModel, draft: Draft) -> GeneratedResponse:
    """Have a model write into a draft, to its end or until it is interrupted.

    Raises: ProviderUnavailable, ProviderRefused, UsageError, RetryLater; StreamSuperseded.
    """
    tools = await asyncio.to_thread(described_tools) if request.may_call_tools else ()
    answer = Answer()
    is_whole = await draft.run(_write(model, request, tools, answer, draft))
    if is_whole and answer.finished is None:
        raise ProviderRefused(model.name, "its answer has no end")
    try:
        return answer.response(model.name, request)
    except ValidationError as error:
        raise ProviderRefused(model.name, f"what it sent is no answer ({error.errors()[0]['msg']})") from error


async def _write(
    model: LanguageModel, request: ModelRequest, tools: Sequence[ToolDescription], answer: Answer, draft: Draft
) -> None:
    parts, limit_s = _parts(model, request, tools), WorkerSettings().llm_answer_timeout_s
    async with held_to_account(model.name, request, answer, limit_s):
        try:
            async with asyncio.timeout(limit_s):
                async for part in parts:
                    before = len(answer.text)
                    answer.add(part)
                    draft.say(answer.text[before:])
        except TimeoutError as error:
            raise ProviderUnavailable(model.name, f"its answer did not end within {limit_s:g} s") from error
        finally:
            # Whatever ends this: what the model holds is closed by then.
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()


def _parts(model: LanguageModel, request: ModelRequest, tools: Sequence[ToolDescription]) -> AsyncIterator[Part]:
    parts: object = model.answer(request, tools)
    if not isinstance(parts, AsyncIterator):
        raise UsageError(
            f"{model.name} answers with a {type(parts).__name__}; write its `answer` as async def with yield"
        )
    return parts


def described_tools() -> tuple[ToolDescription, ...]:
    """List the tools that a model may call. Raises ProviderUnavailable where those of a server are not known."""
    return tuple(ToolDescription(each.name, each.description, each.schema) for each in installed_tools().all())


def is_tried_again(error: PetioleError, event: ModelRequestedEvent, attempt: int) -> bool:
    """Tell whether another attempt is to be made: of three, or within the patience for what is put off."""
    if isinstance(error, RetryLater):
        comes_at = datetime.now(UTC) + timedelta(seconds=error.after_s)
        return comes_at < event.timestamp + timedelta(seconds=WorkerSettings().llm_retry_timeout_s)
    return attempt < RETRY.max_attempts


# Made when it is first asked, in the process that asks: a client's connections do not survive a fork.
@cache
def _model_named(name: str) -> LanguageModel:
    return language_model(name)


def failure_of(model: str, error: PetioleError) -> ModelFailure:
    """Word why a model gave no answer."""
    return ModelFailure(
        model=model,
        error_type=error_type_of(error),
        error=str(error),
        is_retryable=isinstance(error, Retryable),
    )
