"""Any model whose endpoint speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, Ollama, a proxy.

Set PETIOLE_LLM_MODEL, and OPENAI_API_KEY or PETIOLE_LLM_BASE_URL. The package `openai` comes with the extra
of that name and is imported when the first model is made, not when a worker starts. What is sent is worded in
_messages.py; what comes back is read in _chunks.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import NotConfigured, PetioleError, ProviderRefused, ProviderUnavailable, missing_extra
from petiole.workers.llm._chunks import Chunks
from petiole.workers.llm._messages import messages_for, sent_name, tools_for
from petiole.workers.llm.provider import Part, ToolDescription
from petiole.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import openai

# These statuses pass: the request was in time, in a queue, or in the way of another. All others from 400 to
# 499 do not.
_PASSING: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


class Endpoint:
    """A model behind an endpoint. It is asked once: to try again is the delivery's business."""

    name: str

    def __init__(self, model: str, client: openai.AsyncOpenAI, **options: Any) -> None:
        self._model = model
        self._client = client
        self._options = options

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[Part]:
        """Ask the endpoint. Raises: ProviderUnavailable, ProviderRefused."""
        chunks = Chunks(self.name, self._model, {sent_name(each.name): each.name for each in tools})
        with self._worded():
            stream = await self._client.chat.completions.create(
                model=self._model,
                messages=messages_for(request),
                stream=True,
                stream_options={"include_usage": True},
                **_offered(tools),
                **self._options,
            )
            # Closing it closes the connection: nothing is written for who does not listen any more.
            async with stream, aclosing(stream.__aiter__()) as coming:
                async for chunk in coming:
                    for part in chunks.read(chunk):
                        yield part
            for part in chunks.end():
                yield part

    @contextmanager
    def _worded(self) -> Iterator[None]:
        """Raise errors of the client's as our own."""
        import openai  # noqa: PLC0415 - see the module

        try:
            yield
        except PetioleError:
            raise
        except openai.APIConnectionError as error:
            raise self._unreached(error.message.rstrip(".").lower()) from error
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIError as error:
            raise ProviderUnavailable(self.name, f"it broke off with an error, {error.message}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise ProviderRefused(self.name, f"its answer cannot be read ({error})") from error

    def _unreached(self, reason: str) -> ProviderUnavailable:
        return ProviderUnavailable(self.name, reason)

    def _refusal(self, error: openai.APIStatusError) -> ProviderUnavailable | ProviderRefused:
        may_pass = error.status_code in _PASSING or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = ProviderUnavailable if may_pass else ProviderRefused
        return kind(self.name, f"status {error.status_code}, {error.message}")


class OpenAI(Endpoint):
    """The endpoint that the environment names."""

    name = "openai"

    def __init__(self) -> None:
        """Prepare the client; nothing is sent yet. Raises: UsageError (missing_extra), NotConfigured."""
        settings = WorkerSettings()
        if settings.llm_model is None:
            raise NotConfigured(
                "the model of the openai provider", "set PETIOLE_LLM_MODEL to one that the endpoint has"
            )
        base_url = settings.llm_base_url or settings.openai_base_url
        client = connect(base_url, _key(settings, base_url), settings.llm_timeout_s, of=self.name, extra="openai")
        super().__init__(settings.llm_model, client)


def connect(base_url: str | None, key: str, timeout_s: float, *, of: str, extra: str) -> openai.AsyncOpenAI:
    """Make a client; nothing is sent yet. Raises UsageError (missing_extra)."""
    try:
        import openai  # noqa: PLC0415 - see the module
    except ImportError as error:
        raise missing_extra(f"the {of} provider", extra) from error
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=0)


def _offered(tools: Sequence[ToolDescription]) -> dict[str, Any]:
    # Endpoints refuse an empty list.
    return {"tools": tools_for(tools)} if tools else {}


def _key(settings: WorkerSettings, base_url: str | None) -> str:
    if settings.openai_api_key is not None:
        return settings.openai_api_key.get_secret_value()
    if base_url is not None:
        return "none"  # the client insists on a key; endpoints of one's own often want none
    raise NotConfigured("the key of the openai provider", "set OPENAI_API_KEY, or PETIOLE_LLM_BASE_URL to your own")
