"""The pages of the console: their addresses, the roles that they need, and signing in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from petiole.workers.console.answers import LiveAnswers
from petiole.workers.console.approvals import decide_approval, list_approvals
from petiole.workers.console.board import Board
from petiole.workers.console.break_it import show_experiments, start_experiment
from petiole.workers.console.conversations import list_conversations, reveal_conversation, show_conversation
from petiole.workers.console.experiments import Experiments
from petiole.workers.console.failures import (
    discard_letter,
    edit_letter,
    list_failures,
    list_letters,
    reveal_letter,
    show_letter,
    show_replay,
    start_replay,
)
from petiole.workers.console.letter_index import LetterIndex
from petiole.workers.console.live import LiveEvents, set_agent, set_circuit, show_board, show_live
from petiole.workers.console.points import fork_from, replay_from, reveal_point, show_point
from petiole.workers.console.replays import Replays
from petiole.workers.console.routing import download_asyncapi, explain_event, show_asyncapi, show_catalog, show_why
from petiole.workers.console.visit import Answer, ConsoleState, Visit, make_templates, page
from petiole.workers.gateways.identities import SESSION_COOKIE
from petiole.workers.gateways.tokens import SESSION_S, TokenFile

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.workers.console.breakable import Breakable

_STATIC = Path(__file__).parent / "static"

_PAGES: Mapping[str, Answer] = {
    "/": show_live,
    "/board": show_board,
    "/conversations": list_conversations,
    "/conversation": show_conversation,
    "/point": show_point,
    "/failures": list_failures,
    "/letters": list_letters,
    "/letter": show_letter,
    "/replay": show_replay,
    "/approvals": list_approvals,
    "/why": show_why,
    "/catalog": show_catalog,
    "/asyncapi": show_asyncapi,
    "/asyncapi.json": download_asyncapi,
    "/break": show_experiments,
}
"""Pages for viewers."""

_FORMS: Mapping[str, tuple[Answer, str]] = {
    "/circuit": (set_circuit, "circuit.set"),
    "/agent": (set_agent, "agent.set"),
    "/conversation": (reveal_conversation, "contents.shown"),
    "/point": (reveal_point, "contents.shown"),
    "/point/replay": (replay_from, "history.replayed"),
    "/point/fork": (fork_from, "event.forked"),
    "/letter": (reveal_letter, "contents.shown"),
    "/letter/edit": (edit_letter, "dead_letter.edited"),
    "/letter/discard": (discard_letter, "dead_letter.discarded"),
    "/replay": (start_replay, "dead_letters.replayed"),
    "/approval": (decide_approval, "approval.decided"),
    "/break": (start_experiment, "experiment.started"),
}
"""Forms for operators, with the action that a refusal is recorded as."""


def build_pages(bus: BusRuntime, tokens: TokenFile, breakable: Breakable | None) -> Starlette:
    """Build the application without the middleware that says who visits."""
    answers = LiveAnswers(bus)
    experiments = Experiments(bus, breakable) if breakable else None
    console = ConsoleState(
        bus, Board(bus), LetterIndex(bus), Replays(bus), answers, tokens, make_templates(), experiments
    )
    live = LiveEvents(bus)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await live.close()

    routes = [
        *(page(path, answer, console) for path, answer in _PAGES.items()),
        *(page(path, answer, console, role="operator", action=name) for path, (answer, name) in _FORMS.items()),
        page("/why", explain_event, console, action="routing.explained"),
        page("/sign-in", _show_sign_in, console, role="user"),
        page("/sign-in", _sign_in, console, role="user", action="signed_in"),
        page("/sign-out", _sign_out, console, role="user", action="signed_out"),
        Route("/events", live.answer, methods=["GET"]),
        Route("/answers", answers.answer, methods=["GET"]),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _show_sign_in(visit: Visit) -> Response:
    return visit.render("sign_in.html", refusal="", path=str(visit.console.tokens.path))


def _sign_in(visit: Visit) -> Response:
    cookie = visit.console.tokens.open_session(visit.form.get("token", "").strip())
    if cookie is None:
        refusal = "This token is not in the token file."
        return visit.render("sign_in.html", 403, refusal=refusal, path=str(visit.console.tokens.path))
    response = visit.go("/")
    path = visit.request.scope.get("root_path", "") or "/"
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=visit.is_secure,
        path=path,
    )
    return response


def _sign_out(visit: Visit) -> Response:
    response = visit.go("/sign-in")
    response.delete_cookie(SESSION_COOKIE, path=visit.request.scope.get("root_path", "") or "/")
    return response
