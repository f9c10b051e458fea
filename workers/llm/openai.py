"""Any model behind an endpoint with OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama or a proxy.

Set PETIOLE_LLM_MODEL, and OPENAI_API_KEY or PETIOLE_LLM_BASE_URL. The extra `openai` installs the client library,
which is imported when the first model is created. _messages.py builds the requests, _chunks.py parses the responses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import NotConfigured, PetioleError, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.workers.llm._chunks import ChunkParser
from petiole.workers.llm._messages import build_chat_messages, build_tool_schemas, encode_tool_name
from petiole.workers.llm.provider import ResponsePart, ToolDescription
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import openai

# Of the statuses from 400 to 499, only these are temporary.
_RETRYABLE_STATUSES: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


class ChatCompletionsModel:
    """A model behind an endpoint. It sends each request once; retries belong to the delivery."""

    name: str
    model: str

    def __init__(self, model: str, client: openai.AsyncOpenAI, **options: Any) -> None:
        self.model = model
        self._client = client
        self._options = options

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Stream the answer from the endpoint. Raises: ProviderUnavailable, ProviderRefused."""
        parser = ChunkParser(self.name, self.model, {encode_tool_name(tool.name): tool.name for tool in tools})
        with self._translate_errors():
            stream = await self._client.chat.completions.create(
                model=self.model,
                messages=build_chat_messages(request),
                stream=True,
                stream_options={"include_usage": True},
                **_tool_options(tools),
                **self._options,
            )
            # Closing the stream closes the connection, so that the endpoint stops generating.
            async with stream, aclosing(stream.__aiter__()) as chunks:
                async for chunk in chunks:
                    for part in parser.read(chunk):
                        yield part
            for part in parser.finish():
                yield part

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise errors of the client library as errors of Petiole."""
        import openai  # noqa: PLC0415 - an extra

        try:
            yield
        except PetioleError:
            raise
        except openai.APIConnectionError as error:
            # The library's own text of an error that it did not expect names no reason.
            is_refused = isinstance(error.__cause__, ValueError)
            reason = str(error.__cause__) if is_refused else error.message.rstrip(".").lower()
            raise self._unavailable(reason) from error
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIError as error:
            raise ProviderUnavailable(self.name, f"the stream ended with an error, {error.message}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise ProviderRefused(self.name, f"its answer cannot be parsed ({error})") from error

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        return ProviderUnavailable(self.name, reason)

    def _refusal(self, error: openai.APIStatusError) -> ProviderUnavailable | ProviderRefused:
        is_retryable = error.status_code in _RETRYABLE_STATUSES or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        error_class = ProviderUnavailable if is_retryable else ProviderRefused
        return error_class(self.name, f"status {error.status_code}, {error.message}")


class OpenAI(ChatCompletionsModel):
    """The endpoint that the settings name."""

    name = "openai"

    def __init__(self) -> None:
        """Create the client; sends nothing. Raises: UsageError (missing_extra), NotConfigured."""
        settings = WorkerSettings()
        if settings.llm_model is None:
            raise NotConfigured("the model of the openai provider", "set PETIOLE_LLM_MODEL to a model of the endpoint")
        base_url = settings.llm_base_url or settings.openai_base_url
        client = create_client(
            base_url, _api_key(settings, base_url), settings.llm_timeout_s, provider=self.name, extra="openai"
        )
        super().__init__(settings.llm_model, client)


def create_client(base_url: str | None, key: str, timeout_s: float, *, provider: str, extra: str) -> openai.AsyncOpenAI:
    """Create a client; sends nothing. Raises UsageError (missing_extra)."""
    try:
        import openai  # noqa: PLC0415 - an extra

        from petiole.workers.response_limits import REQUEST_HEADERS, limit_response  # noqa: PLC0415 - of that extra
    except ImportError as error:
        raise missing_extra(f"the {provider} provider", extra) from error
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=timeout_s,
        max_retries=0,
        default_headers=REQUEST_HEADERS,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [limit_response]}, timeout=timeout_s),
    )


def _tool_options(tools: Sequence[ToolDescription]) -> dict[str, Any]:
    # Endpoints reject an empty list.
    return {"tools": build_tool_schemas(tools)} if tools else {}


def _api_key(settings: WorkerSettings, base_url: str | None) -> str:
    if settings.openai_api_key is not None:
        return settings.openai_api_key.get_secret_value()
    if base_url is not None:
        return "none"  # the client library requires a key, though many self-hosted endpoints do not
    raise NotConfigured("the key of the openai provider", "set OPENAI_API_KEY, or PETIOLE_LLM_BASE_URL for your own")
