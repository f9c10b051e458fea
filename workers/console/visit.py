"""Visit: one request to a page, and what pages answer with.

A page that changes something is a POST: its form has the token of the cookie `petiole_form`, which a page of another
site cannot read (double submit), and what was done is published as `operator.action.recorded`.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from petiole.events.catalog.operator import OperatorAction, OperatorActionEvent
from petiole.events.errors import BrokerUnavailable, PetioleError, StateStoreUnavailable, UsageError
from petiole.events.texts import error_text
from petiole.tasks.operations.audit import publish_audit_events, record_action
from petiole.workers.console.formats import FILTERS
from petiole.workers.gateways.identities import IDENTITY
from petiole.workers.gateways.tokens import Identity, Role

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.workers.console.answers import LiveAnswers
    from petiole.workers.console.board import Board
    from petiole.workers.console.experiments import Experiments
    from petiole.workers.console.letter_index import LetterIndex
    from petiole.workers.console.replays import Replays
    from petiole.workers.gateways.tokens import TokenFile

FORM_COOKIE: Final = "petiole_form"
MAX_FIELDS: Final = 50
_MAX_REASON_LENGTH = 500

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsoleState:
    """What all visits share: the bus, and what the console remembers of it."""

    bus: BusRuntime
    board: Board
    letters: LetterIndex
    replays: Replays
    answers: LiveAnswers
    tokens: TokenFile
    templates: Environment
    experiments: Experiments | None = None


@dataclass(frozen=True)
class Visit:
    """One request: who visits, what the form says, and the shared parts."""

    request: Request
    console: ConsoleState
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def bus(self) -> BusRuntime:
        """The bus that is shown."""
        return self.console.bus

    @property
    def identity(self) -> Identity | None:
        """Who visits; None only on the page to sign in."""
        found: Identity | None = self.request.scope.get(IDENTITY)
        return found

    @property
    def operator(self) -> str:
        """The name for audit events."""
        return self.identity.name if self.identity else "nobody"

    @cached_property
    def form_token(self) -> str:
        """The token that forms of this browser carry."""
        return self.request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)

    def query(self, name: str, default: str = "") -> str:
        """Return a parameter of the address."""
        return self.request.query_params.get(name, default).strip()

    def number(self, name: str, default: int, largest: int) -> int:
        """Return a parameter of the address as a number from 0 to `largest`."""
        text = self.query(name)
        return min(int(text), largest) if text.isdecimal() and len(text) <= len(str(largest)) else default

    def may(self, role: Role) -> bool:
        """Return whether the visitor may do what a role may."""
        return self.identity is not None and self.identity.may(role)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Render a page."""
        root = self.request.scope.get("root_path", "")
        values |= {"root": root, "visit": self, "identity": self.identity}
        response = HTMLResponse(self.console.templates.get_template(template).render(values), status)
        response.headers["Content-Security-Policy"] = _POLICY
        response.set_cookie(
            FORM_COOKIE, self.form_token, httponly=True, samesite="strict", secure=self.is_secure, path=root or "/"
        )
        return response

    @property
    def is_secure(self) -> bool:
        """Whether the browser uses HTTPS."""
        return self.request.url.scheme == "https"

    def go(self, path: str, **parameters: str) -> Response:
        """Send the browser to a page, which it gets instead of sending the form again."""
        address = self.request.scope.get("root_path", "") + path
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        return RedirectResponse(f"{address}?{query}" if query else address, 303)

    def acting(self, action: str, target: str) -> AbstractContextManager[None]:
        """Record that the visitor does what the block does, and what came of it. Raises BrokerUnavailable."""
        return record_action(self.bus, self._describe_action(action, target))

    def record(self, action: str, target: str, *, refusal: str = "") -> None:
        """Record what the visitor is about to see, or may not do. Raises BrokerUnavailable, StateStoreUnavailable."""
        content = self._describe_action(action, target)
        if refusal:
            content = content.model_copy(update={"outcome": "refused", "error": refusal})
        publish_audit_events(self.bus, [OperatorActionEvent(content=content)])

    def _describe_action(self, action: str, target: str) -> OperatorAction:
        return OperatorAction(
            operator=self.operator,
            role=self.identity.role if self.identity else "user",
            action=action,
            target=target or "-",
            reason=self.form.get("reason", "")[:_MAX_REASON_LENGTH],
        )


Answer: TypeAlias = Callable[[Visit], Response]


def make_templates() -> Environment:
    """Make the environment of the templates; every value is escaped."""
    templates = Environment(
        loader=PackageLoader("petiole.workers.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters.update(FILTERS)
    return templates


def page(
    path: str, answer: Answer, console: ConsoleState, *, role: Role = "viewer", action: str | None = None
) -> Route:
    """Make the route of a page. With `action` it is a POST, and that name stands in the audit event of a refusal."""

    async def serve(request: Request) -> Response:
        try:
            visit = Visit(request, console, parse_form(await request.body()) if action else {})
        except UsageError as error:
            visit = Visit(request, console)
            return visit.render("error.html", 400, title="That was refused", reason=error_text(error))
        return await run_in_threadpool(_serve, visit, answer, role, action)

    endpoint: Callable[[Request], Awaitable[Response]] = serve
    return Route(path, endpoint, methods=["POST"] if action else ["GET"])


def parse_form(body: bytes) -> dict[str, str]:
    """Parse a form; the first value of each name counts. Raises UsageError."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise UsageError(f"the form cannot be read: {error}; send it from its page") from error
    return dict(reversed(pairs))


def _serve(visit: Visit, answer: Answer, role: Role, action: str | None) -> Response:
    try:
        if not visit.may(role) and role != "user":
            return _refuse_role(visit, role, action)
        if action and not _has_form_token(visit):
            return visit.render(
                "error.html", 403, title="The form has expired", reason="Reload its page, send it again."
            )
        return answer(visit)
    except (BrokerUnavailable, StateStoreUnavailable, RedisError, OperationalError) as error:
        log.warning("console.store_unavailable", extra={"error": error_text(error)})
        reason = f"{error_text(error)} Reload this page when it is back."
        return visit.render("error.html", 503, title="The broker does not answer", reason=reason)
    except PetioleError as error:
        return visit.render("error.html", 400, title="That was refused", reason=error_text(error))


def _refuse_role(visit: Visit, role: Role, action: str | None) -> Response:
    if action:
        visit.record(action, visit.request.url.path, refusal=f"needs the role {role}")
    reason = f"This needs the role {role}. Sign in with a token of that role; the token file gives roles."
    return visit.render("error.html", 403, title="Not allowed", reason=reason)


def _has_form_token(visit: Visit) -> bool:
    cookie, given = visit.request.cookies.get(FORM_COOKIE, ""), visit.form.get("form_token", "")
    return bool(cookie) and hmac.compare_digest(cookie.encode(), given.encode())
