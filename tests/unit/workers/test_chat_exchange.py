"""Following the answer to a message."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from petiole.events import TextContent, TextMessageEvent
from petiole.workers.cli._conversation import ChatExchange, Conversation


def test_an_answer_that_is_slowly_written_is_followed_to_its_end(monkeypatch):
    message = TextMessageEvent(stream_id="s", content=TextContent(text="Hello"))
    topics = ["input.message.received", "llm.progress", "llm.progress", "llm.progress", "output.message.sent"]
    now_s = 0.0

    def read_after(entry_id: str, block_ms: int) -> list[Any]:
        nonlocal now_s
        now_s += 20
        number, attributes = int(entry_id), {"correlation_id": message.correlation_id}
        content = {"content": {"text": "Hello, you."}}
        return [
            SimpleNamespace(entry_id=str(number + 1), topic=topics[number], attributes=attributes, document=content)
        ]

    streams = SimpleNamespace(read=lambda *_, **__: [])
    stores = SimpleNamespace(history=SimpleNamespace(read_after=read_after), response_streams=streams)
    monkeypatch.setattr("petiole.workers.cli._conversation.time.monotonic", lambda: now_s)
    exchange = ChatExchange(message, after_entry_id="0")

    followed = list(Conversation(SimpleNamespace(stores=stores), "s").follow(exchange, timeout_s=30))  # type: ignore[arg-type]  # what is read of a bus

    assert len(followed) == len(topics)
    assert exchange.answer == "Hello, you."
