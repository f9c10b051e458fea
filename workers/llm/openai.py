"""Any model behind an endpoint with OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama or a proxy.

Set PETIOLE_LLM_MODEL, and OPENAI_API_KEY or PETIOLE_LLM_BASE_URL. The extra `openai` installs the client library,
which is imported when the first model is created.

    write, strictly     _messages.py the conversation, _tool_schemas.py the tools
    read, leniently     _server_events.py the body, _chunks.py its chunks, _call_fragments.py its tool calls
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import NotConfigured, PetioleError, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.events.texts import error_text
from petiole.workers.llm._chunks import ChunkParser, is_retryable_status
from petiole.workers.llm._messages import build_chat_messages
from petiole.workers.llm._server_events import read_documents
from petiole.workers.llm._tool_schemas import OfferedTools, offer_tools
from petiole.workers.llm.provider import ResponsePart, ToolDescription
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

_DRAIN_TIMEOUT_S = 0.2


class ChatCompletionsModel:
    """A model behind an endpoint. It sends each request once; retries belong to the delivery."""

    name: str
    model: str

    def __init__(self, model: str, client: openai.AsyncOpenAI, **options: Any) -> None:
        self.model = model
        # Loads the modules of the requests, which takes the library a second, when the model is created.
        self._completions = client.chat.completions
        self._options = options
        self._reported: set[str] = set()

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Stream the answer from the endpoint. Raises: ProviderUnavailable, ProviderRefused."""
        offered = offer_tools(tools)
        self._report_changes(offered)
        parser = ChunkParser(self.name, self.model, offered.names)
        with self._translate_errors():
            stream = await self._completions.create(
                model=self.model,
                messages=build_chat_messages(request),
                stream=True,
                stream_options={"include_usage": True},
                **_tool_options(offered),
                **self._options,
            )
            # The library reads chunks by the letter of the protocol, so the body is read here. Closing the response
            # closes the connection, so that the endpoint stops generating.
            async with stream, aclosing(read_documents(stream.response.aiter_bytes())) as documents:
                async for document in documents:
                    for part in parser.read(document):
                        yield part
                    if document == "done":
                        await _drain(documents)
                        break
            for part in parser.finish():
                yield part

    def _report_changes(self, offered: OfferedTools) -> None:
        """Log once what of the tools could not be sent as it is."""
        for change in offered.changes:
            if change not in self._reported:
                self._reported.add(change)
                log.warning("llm.tool_changed", extra={"model": self.name, "change": change})

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise errors of the client library as errors of Petiole."""
        import httpx2  # noqa: PLC0415 - of an extra
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
            raise self._unavailable(f"the stream ended with an error, {error_text(error)}") from error
        except httpx2.TimeoutException as error:
            raise self._unavailable("request timed out") from error
        except httpx2.HTTPError as error:
            raise self._unavailable(f"connection error: {error_text(error)}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise ProviderRefused(self.name, f"its answer cannot be parsed ({error_text(error)})") from error

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        return ProviderUnavailable(self.name, reason)

    def _refusal(self, error: openai.APIStatusError) -> ProviderUnavailable | ProviderRefused:
        error_class = ProviderUnavailable if is_retryable_status(error.status_code) else ProviderRefused
        return error_class(self.name, f"status {error.status_code}, {error_text(error)}")


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


def _tool_options(offered: OfferedTools) -> dict[str, Any]:
    # Endpoints reject an empty list.
    return {"tools": offered.schemas} if offered.schemas else {}


async def _drain(documents: AsyncIterator[object]) -> None:
    """Read the end of a body, so that its connection can be used again. An endpoint may leave it open."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            async for _ in documents:
                pass


def _api_key(settings: WorkerSettings, base_url: str | None) -> str:
    if settings.openai_api_key is not None:
        return settings.openai_api_key.get_secret_value()
    if base_url is not None:
        return "none"  # the client library requires a key, though many self-hosted endpoints do not
    raise NotConfigured("the key of the openai provider", "set OPENAI_API_KEY, or PETIOLE_LLM_BASE_URL for your own")
