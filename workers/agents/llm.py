"""Llm: generates answers with the language model that PETIOLE_LLM selects.

Clients can read the answer while it is written (tasks/streaming/reader.py); the event has the complete answer. An
unreachable model is tried three times in total. A request is deferred for up to PETIOLE_LLM_RETRY_TIMEOUT_S while the
model's circuit is open or its rate limit is exceeded. After that, or if the model refuses, `llm.response.failed` is
published, so that the user gets an apology; also after any error of the model itself, which may be anybody's code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

from pydantic import ValidationError

from petiole.events.catalog.llm import (
    GeneratedResponse,
    ModelFailure,
    ResponseFailedEvent,
    ResponseGeneratedEvent,
    Usage,
)
from petiole.events.catalog.orchestrator import ModelRequest, ModelRequestedEvent
from petiole.events.catalog.usage import RecordedUsage, UsageRecordedEvent
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
from petiole.tasks.handling.time_limits import TimeLimitReached
from petiole.tasks.instrumentation import ModelUsed
from petiole.tasks.instrumentation.tracing import trace_operation
from petiole.tasks.resilience.error_classification import is_worth_retrying
from petiole.tasks.settlement.exits import is_shutdown
from petiole.workers.llm import LanguageModel, create_model
from petiole.workers.llm.prices import cost_of
from petiole.workers.llm.provider import ResponseBuilder, ResponsePart, ToolDescription
from petiole.workers.llm.spending_caps import reserve_cost
from petiole.workers.llm.usage_limits import build_usage_record, limit_usage
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.tools import ToolRegistry, installed_tools
from petiole.workers.tools.connecting import connect_tool_sources

agent = Agent("llm")

log = logging.getLogger(__name__)

MODEL_RETRY_POLICY = RetryPolicy(max_attempts=3)


async def answer(event: ModelRequestedEvent, context: Context) -> tuple[Event, ...]:
    """Generate the answer, or a failure event when no retry is left."""
    name = WorkerSettings().llm
    try:
        # Create the model before the response stream starts: importing its library takes a second without heartbeats.
        with _as_provider_error(name):
            model = await asyncio.to_thread(_cached_model, name)
        response, usage = await _answer_within_caps(event, context, model)
    except (UsageError, Permanent, StreamBusy) as error:
        return (event.caused(ResponseFailedEvent, content=build_model_failure(name, error)),)
    except (ProviderUnavailable, RetryLater) as error:
        if should_retry(error, event, context.attempt):
            raise
        return (event.caused(ResponseFailedEvent, content=build_model_failure(name, error)),)
    generated = event.caused(ResponseGeneratedEvent, content=response)
    if usage is None:
        return (generated,)
    _count_usage(usage)
    return generated, event.caused(UsageRecordedEvent, content=usage)


def _count_usage(usage: RecordedUsage) -> None:
    used = ModelUsed(
        model=usage.model, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cost_usd=usage.cost
    )
    current_bus().instrumentation.emit(used)


async def _answer_within_caps(
    event: ModelRequestedEvent, context: Context, model: LanguageModel
) -> tuple[GeneratedResponse, RecordedUsage | None]:
    """Generate the answer, and count what it costs. Raises as `generate`, and as `reserve_cost`."""
    store, now_s = team_state(context.bus).spending, context.bus.now().timestamp()
    # In a call, speech stops the answer, as it stops one that is spoken (speaking.py).
    is_call = await asyncio.to_thread(team_state(context.bus).audio_streams.exists, event.stream_id)
    reserved, cost = await asyncio.to_thread(reserve_cost, store, model.name, event, now_s), None
    try:
        async with context.stream_response(stops_at_speech=is_call) as stream:
            response = await generate(event.content, model, stream)
        usage = await asyncio.to_thread(build_usage_record, model.name, response, event.content)
        cost = usage.cost if usage else None
    finally:
        await asyncio.to_thread(reserved.settle, cost)
    return response, usage


@agent.on_start
def load_model() -> None:
    """Create the model, load its prices and list the tools, so that the first request waits for no library.

    A model that cannot be created is logged. Each request fails with the reason, and its user gets an apology.
    """
    try:
        settings = WorkerSettings()
        model = _cached_model(settings.llm)
        cost_of(Usage(), model.name, str(getattr(model, "model", model.name)), settings)  # loads the prices
        connect_tool_sources(ToolRegistry.all)
    except Exception as error:  # noqa: BLE001 - a model may be anybody's code; its requests raise the error again
        log.warning("model.load_failed", extra={"model": WorkerSettings().llm, "error": error_text(error)})


@agent.on_include
def subscribe_answer() -> None:
    """Subscribe `answer` with the configured `on_busy`."""
    agent.on("orchestrator.llm.requested", on_busy=WorkerSettings().llm_on_busy, retry=MODEL_RETRY_POLICY)(answer)


async def generate(request: ModelRequest, model: LanguageModel, stream: ResponseStream) -> GeneratedResponse:
    """Let a model write into a response stream until it finishes or is interrupted.

    Raises: ProviderUnavailable, ProviderRefused, UsageError, RetryLater; StreamSuperseded.
    """
    with _as_provider_error(model.name):
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
    with _as_provider_error(model.name):
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
    limit_s = WorkerSettings().llm_answer_timeout_s
    with _as_provider_error(model.name):
        parts = _stream_parts(model, request, tools)
    async with limit_usage(model.name, request, answer, limit_s):
        try:
            async with asyncio.timeout(limit_s):
                with _as_provider_error(model.name):
                    async for part in parts:
                        length_before = len(answer.text)
                        _add_part(answer, part, model)
                        stream.write(answer.text[length_before:])
        except TimeoutError as error:
            raise ProviderUnavailable(model.name, f"its answer did not end within {limit_s:g} s") from error
        finally:
            # Close the model's connection, also after an error or a cancellation.
            if isinstance(parts, AsyncGenerator):
                with _as_provider_error(model.name):
                    await parts.aclose()


@contextmanager
def _as_provider_error(name: str) -> Iterator[None]:
    """Raise whatever a model raises as an error that ends in an apology; what ends the delivery passes.

    A timeout, a broken connection and an unknown error may pass at the next attempt; a bug does not.
    """
    try:
        yield
    except (UsageError, Permanent, ProviderUnavailable, RetryLater, TimeLimitReached):
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if is_shutdown(error) or (isinstance(error, asyncio.CancelledError) and task and task.cancelling()):
            raise
        reason = f"it raised {error_type_of(error)}: {error_text(error)}"
        error_class = ProviderUnavailable if is_worth_retrying(error) else ProviderRefused
        raise error_class(name, reason) from error


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
