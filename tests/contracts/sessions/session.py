"""Sessions on a real server and on the stand-in of an in-process bus."""

from __future__ import annotations

from petiole.events import TextContent, TextMessageEvent
from petiole.tasks.settings import Settings

LIMITS = Settings(session_idle_timeout_s=1, session_end_timeout_s=2)


def a_message(text: str = "hi", stream_id: str = "s", **fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": stream_id, "content": TextContent(text=text)} | fields)
