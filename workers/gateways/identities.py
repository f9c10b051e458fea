"""Identities: what a request knows of its caller, and whose streams the caller may use.

    scope["petiole.identity"]                the Identity of the caller, in every request that reaches a gateway
    check_stream(bus, scope, stream_id)      before a gateway reads or writes a stream

The pages of browsers cannot set headers of a WebSocket. They send the token as a subprotocol: `petiole` and
`bearer.TOKEN`, with `%XX` for characters that a subprotocol may not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote

from starlette.requests import HTTPConnection
from starlette.types import Scope

from petiole.events.catalog.dead_letters import DEAD_LETTERS_STREAM
from petiole.events.catalog.operator import OPERATORS_STREAM
from petiole.events.ids import SYSTEM_STREAM
from petiole.workers.gateways.problems import RequestRefused
from petiole.workers.gateways.tokens import Identity
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

Authenticate: TypeAlias = Callable[[HTTPConnection], Awaitable[Identity | None]]

IDENTITY: Final = "petiole.identity"
"""The key of the caller's Identity in an ASGI scope."""

SESSION_COOKIE: Final = "petiole_session"
SUBPROTOCOL: Final = "petiole"
"""The WebSocket subprotocol that the server selects if a client sends its token as another one."""

MAX_STREAM_ID_LENGTH: Final = 255

_BEARER_PROTOCOL = "bearer."
_RESERVED_STREAMS = frozenset({DEAD_LETTERS_STREAM, OPERATORS_STREAM, SYSTEM_STREAM})
_RESERVED_PREFIXES = ("mcp-", "webhook-")


def bearer_token(connection: HTTPConnection) -> str | None:
    """Return the token that a caller sends, or None."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    protocols: list[str] = connection.scope.get("subprotocols", [])
    offered = next((name for name in protocols if name.startswith(_BEARER_PROTOCOL)), None)
    return None if offered is None else unquote(offered.removeprefix(_BEARER_PROTOCOL))


def check_stream(bus: BusRuntime, scope: Scope, stream_id: str, *, is_write: bool = False) -> None:
    """Raise RequestRefused unless the caller may read a stream, or publish into it."""
    if len(stream_id) > MAX_STREAM_ID_LENGTH:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"the stream id: give at most {MAX_STREAM_ID_LENGTH} characters")
    if not may_use_stream(bus, scope.get(IDENTITY), stream_id, is_write=is_write):
        reason = f"the stream {stream_id!r} is not yours; begin one of your own, or send a token of its user"
        raise RequestRefused(HTTPStatus.FORBIDDEN, reason)


def may_use_stream(bus: BusRuntime, identity: Identity | None, stream_id: str, *, is_write: bool = False) -> bool:
    """Return whether a caller may read a stream, or publish into it.

    A stream belongs to the users of its session, or to the user who began it. Others cannot read it, whatever their
    role but `admin`. A stream without events belongs to nobody: nobody may read it, and the first user who wants to
    publish becomes its owner. Streams of the system itself belong to no user.
    """
    if identity is None:
        return False
    if identity.role == "admin":
        return True
    if identity.user_id is None:
        return False
    with bus.state_store_access("reading whose stream it is"):
        owners = _owners(bus, stream_id)
        if owners or not is_write or _is_reserved(stream_id):
            return identity.user_id in owners
        return team_state(bus).stream_owners.claim(stream_id, identity.user_id) == identity.user_id


def _owners(bus: BusRuntime, stream_id: str) -> set[str | None]:
    session = bus.stores.sessions.get(stream_id)
    users: set[str | None] = {each.id for each in session.participants if each.role == "user"} if session else set()
    if users:
        return users
    if (owner := team_state(bus).stream_owners.get(stream_id)) is not None:
        return {owner}
    first = next(iter(bus.stores.history.read_stream(stream_id)), None)
    context = first.attributes.get("context") if first else None
    user_id = context.get("user_id") if isinstance(context, Mapping) else None
    return {user_id} if first else set()


def _is_reserved(stream_id: str) -> bool:
    is_system = stream_id in _RESERVED_STREAMS or stream_id == WorkerSettings().operator_stream
    return is_system or stream_id.startswith(_RESERVED_PREFIXES)
