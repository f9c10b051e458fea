"""Answers while they are written: the text of a stream, for operators who had its contents shown.

The page of a conversation that shows its contents follows them. To read them without that page would be to see contents
that nobody recorded, so a stream is permitted to the operator who had it shown, for PERMITTED_S.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from petiole.workers.gateways.identities import IDENTITY
from petiole.workers.gateways.tokens import Identity

if TYPE_CHECKING:
    from starlette.requests import Request

    from petiole.tasks.runtime import BusRuntime

PERMITTED_S: Final = 3_600.0
MAX_PERMITS: Final = 1_000
SEND_TIMEOUT_S: Final = 20.0


class LiveAnswers:
    """Follows the response streams of a bus for browsers that may see them."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._permits: OrderedDict[tuple[str, str], float] = OrderedDict()

    def permit(self, operator: str, stream_id: str) -> None:
        """Permit an operator to follow the answers of a stream."""
        self._permits[operator, stream_id] = time.monotonic() + PERMITTED_S
        while len(self._permits) > MAX_PERMITS:
            self._permits.popitem(last=False)

    async def answer(self, request: Request) -> Response:
        """Answer with the chunks of a stream until the browser leaves, from the oldest that is kept."""
        from petiole.workers.gateways.server_sent_events import EventResponse  # noqa: PLC0415 - an extra

        identity: Identity | None = request.scope.get(IDENTITY)
        stream_id = request.query_params.get("stream", "")
        if identity is None or not identity.may("operator") or not self._may_follow(identity.name, stream_id):
            reason = "have the contents of this conversation shown first, which needs the role operator"
            return Response(reason, 403, media_type="text/plain")
        last = request.headers.get("last-event-id", "")
        events = self._follow(stream_id, last if last.isdecimal() and len(last) < 19 else None)  # noqa: PLR2004 - 64 bits
        return EventResponse(events, ping=15, send_timeout=SEND_TIMEOUT_S)

    def _may_follow(self, operator: str, stream_id: str) -> bool:
        return self._permits.get((operator, stream_id), 0.0) > time.monotonic()

    async def _follow(self, stream_id: str, position: str | None) -> AsyncIterator[dict[str, str]]:
        from petiole.workers.gateways.server_sent_events import read_chunks  # noqa: PLC0415 - an extra

        async for event in read_chunks(self._bus, stream_id, position):
            data = json.dumps(dict(event.data), ensure_ascii=False)
            yield {"event": event.name, "id": event.position, "data": data}
