"""Errors as HTTP responses: problem details (RFC 9457), which name the field, the reason and what to do next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeAlias

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from petiole.events.errors import PetioleError, QueueFull, Retryable, SessionEnded, UsageError, error_type_of
from petiole.events.texts import error_text
from petiole.workers.gateways.resource_metadata import build_challenge

RETRY_AFTER_S: Final = 5

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class RequestRefused(Exception):  # noqa: N818 - a refusal is an answer to the client, and no error of ours
    """A request that is answered with a status and a reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def answer_problems(endpoint: Endpoint) -> Endpoint:
    """Answer the errors of an endpoint that its client can do something about."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestRefused as error:
            return problem(error.status, str(error))
        except PetioleError as error:
            return problem(status_of(error), error_text(error), error_type_of(error))

    return answer


async def refuse(refusal: RequestRefused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refused request. A refused WebSocket is a 403 without a reason, which browsers would not show."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    response = problem(refusal.status, str(refusal))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = build_challenge(scope)
    await response(scope, receive, send)


def problem(status: HTTPStatus, reason: str, code: str = "") -> JSONResponse:
    """Build the response for an error."""
    body = {"title": status.phrase, "status": int(status), "detail": reason} | ({"code": code} if code else {})
    is_temporary = status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if is_temporary else None
    return JSONResponse(body, int(status), headers, media_type="application/problem+json")


def status_of(error: PetioleError) -> HTTPStatus:
    """Return the HTTP status for an error."""
    match error:
        case SessionEnded():
            return HTTPStatus.CONFLICT
        case QueueFull():
            return HTTPStatus.TOO_MANY_REQUESTS
        case Retryable():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case UsageError():
            return HTTPStatus.BAD_REQUEST
    return HTTPStatus.INTERNAL_SERVER_ERROR


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that was read; after it, what the client sends next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def read_json_body(request: Request) -> bytes:
    """Read a body that is declared as JSON. Raises RequestRefused.

    A page of another site can post without asking the server first, but only as a form or as plain text.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body has to be JSON; send Content-Type: application/json"
        )
    return await request.body()


def invalid_body(error: ValidationError) -> RequestRefused:
    """Build the refusal of a body that does not match its model: the first field that is wrong, and why."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "the body"
    return RequestRefused(HTTPStatus.BAD_REQUEST, f"{field}: {first['msg']}; correct it and send the request again")


class RequestBody(BaseModel, extra="forbid"):
    """Base of the bodies of requests: unknown fields are refused."""
