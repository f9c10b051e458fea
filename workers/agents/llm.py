"""Llm: generates answers with the language model that PETIOLE_LLM selects.

Clients can read the answer while it is written (tasks/streaming/reader.py); the event has the complete answer. An
unreachable model is tried three times in total. A request is deferred for up to PETIOLE_LLM_RETRY_TIMEOUT_S while the
model's circuit is open or its rate limit is exceeded. After that, or if the model refuses, `llm.response.failed` is
published, so that the user gets an apology.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import timedelta
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
from petiole.events.texts import error_text
from petiole.tasks import Agent, Context, ResponseStream, RetryPolicy
from petiole.tasks.handling.current import current_bus
from petiole.tasks.instrumentation.tracing import trace_operation
from petiole.workers.llm import LanguageModel, create_model
from petiole.workers.llm.provider import ResponseBuilder, ResponsePart, ToolDescription
from petiole.workers.llm.usage_limits import build_usage_record, limit_usage
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools import installed_tools

agent = Agent("llm")

MODEL_RETRY_POLICY = RetryPolicy(max_attempts=3)


async def answer(event: ModelRequestedEvent, context: Context) -> tuple[Event, ...]:
    """Generate the answer, or a failure event when no retry is left."""
    name = WorkerSettings().llm
    try:
        # Create the model before the response stream starts: importing its library takes a second without heartbeats.
        model = await asyncio.to_thread(_cached_model, name)
        async with context.stream_response() as stream:
            response = await generate(event.content, model, stream)
    except (UsageError, Permanent, StreamBusy) as error:
        return (event.caused(ResponseFailedEvent, content=build_model_failure(name, error)),)
    except (ProviderUnavailable, RetryLater) as error:
        if should_retry(error, event, context.attempt):
            raise
        return (event.caused(ResponseFailedEvent, content=build_model_failure(name, error)),)
    generated = event.caused(ResponseGeneratedEvent, content=response)
    usage = build_usage_record(model.name, response.model, response.usage)
    return (generated, event.caused(UsageRecordedEvent, content=usage)) if usage else (generated,)


@agent.on_include
def subscribe_answer() -> None:
    """Subscribe `answer` with the configured `on_busy`."""
    agent.on("orchestrator.llm.requested", on_busy=WorkerSettings().llm_on_busy, retry=MODEL_RETRY_POLICY)(answer)


async def generate(request: ModelRequest, model: LanguageModel, stream: ResponseStream) -> GeneratedResponse:
    """Let a model write into a response stream until it finishes or is interrupted.

    Raises: ProviderUnavailable, ProviderRefused, UsageError, RetryLater; StreamSuperseded.
    """
    requested = str(getattr(model, "model", model.name))
    attributes = {"gen_ai.provider.name": model.name, "gen_ai.request.model": requested}
    with trace_operation("chat", requested, attributes) as span:
        response = await _generate(request, model, stream)
        if span is not None:
            span.set_attributes(_describe_response(response))
        return response


def _describe_response(response: GeneratedResponse) -> dict[str, str | int | list[str]]:
    return {
        "gen_ai.response.model": response.model,
        "gen_ai.response.finish_reasons": [response.finish_reason],
        "gen_ai.usage.input_tokens": response.usage.input_tokens,
        "gen_ai.usage.output_tokens": response.usage.output_tokens,
    }


async def _generate(request: ModelRequest, model: LanguageModel, stream: ResponseStream) -> GeneratedResponse:
    tools = await asyncio.to_thread(describe_tools) if request.may_call_tools else ()
    answer = ResponseBuilder()
    is_complete = await stream.run(_write(model, request, tools, answer, stream))
    if is_complete and answer.finished is None:
        raise ProviderRefused(model.name, "its answer ended without a `Finished` part")
    try:
        return answer.build(model.name, request)
    except ValidationError as error:
        raise ProviderRefused(model.name, f"its answer is invalid ({error.errors()[0]['msg']})") from error


async def _write(
    model: LanguageModel,
    request: ModelRequest,
    tools: Sequence[ToolDescription],
    answer: ResponseBuilder,
    stream: ResponseStream,
) -> None:
    parts, limit_s = _stream_parts(model, request, tools), WorkerSettings().llm_answer_timeout_s
    async with limit_usage(model.name, request, answer, limit_s):
        try:
            async with asyncio.timeout(limit_s):
                async for part in parts:
                    length_before = len(answer.text)
                    _add_part(answer, part, model)
                    stream.write(answer.text[length_before:])
        except TimeoutError as error:
            raise ProviderUnavailable(model.name, f"its answer did not end within {limit_s:g} s") from error
        finally:
            # Close the model's connection, also after an error or a cancellation.
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()


def _add_part(answer: ResponseBuilder, part: ResponsePart, model: LanguageModel) -> None:
    try:
        answer.add(part)
    except (ValueError, TypeError) as error:
        raise ProviderRefused(model.name, f"its answer is invalid ({error_text(error)})") from error


def _stream_parts(
    model: LanguageModel, request: ModelRequest, tools: Sequence[ToolDescription]
) -> AsyncIterator[ResponsePart]:
    parts: object = model.answer(request, tools)
    if not isinstance(parts, AsyncIterator):
        raise UsageError(
            f"{model.name} answers with a {type(parts).__name__}; write its `answer` as async def with yield"
        )
    return parts


def describe_tools() -> tuple[ToolDescription, ...]:
    """List the tools that a model may call."""
    return tuple(ToolDescription(tool.name, tool.description, tool.schema) for tool in installed_tools().all())


def should_retry(error: PetioleError, event: ModelRequestedEvent, attempt: int) -> bool:
    """Return whether to retry: up to three attempts, deferred requests for up to PETIOLE_LLM_RETRY_TIMEOUT_S."""
    if isinstance(error, RetryLater):
        next_attempt_at = current_bus().now() + timedelta(seconds=error.after_s)
        return next_attempt_at < event.timestamp + timedelta(seconds=WorkerSettings().llm_retry_timeout_s)
    return attempt < MODEL_RETRY_POLICY.max_attempts


# Created at the first request, in the process that sends it, because a client's connections do not survive a fork.
@cache
def _cached_model(name: str) -> LanguageModel:
    return create_model(name)


def build_model_failure(model: str, error: PetioleError) -> ModelFailure:
    """Build the content of a failed response."""
    return ModelFailure(
        model=model,
        error_type=error_type_of(error),
        error=error_text(error),
        is_retryable=isinstance(error, Retryable),
    )
