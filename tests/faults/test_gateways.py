"""Clients of the gateways get the whole answer once, although worker and server are killed in mid-answer."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from typing import Any

from a2a.types import StreamResponse
from ag_ui.core import Event
from pydantic import TypeAdapter

from petiole.workers.gateways.ag_ui import flow_of
from tests.support.gateways import (
    Gateway,
    ReturningReader,
    follow_task,
    text_of_task,
    whole_answer,
    with_slow_model,
)
from tests.support.polling import wait_until


def messages_of(events: list[dict[str, Any]]) -> dict[str, str]:
    """Apply the events as a client of AG-UI does; gives its assistant's messages."""
    messages: dict[str, str] = {}
    for event in events:
        match event["type"]:
            case "MESSAGES_SNAPSHOT":
                messages = {each["id"]: each["content"] for each in event["messages"] if each["role"] == "assistant"}
            case "TEXT_MESSAGE_START":
                assert event["messageId"] not in messages
                messages[event["messageId"]] = ""
            case "TEXT_MESSAGE_CONTENT":
                messages[event["messageId"]] += event["delta"]
    return messages


def test_clients_of_ag_ui_and_a2a_have_the_whole_answer_once_after_worker_and_server_were_killed(node):
    with_slow_model(node)
    gateway, worker = Gateway(node), node.worker("one")
    gateway.start()
    body = {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "Tell me a story"}]}
    reader = ReturningReader(f"{gateway.url}/ag-ui", "RUN_FINISHED", body)
    reading = threading.Thread(target=reader.read)
    reading.start()
    seen: list[StreamResponse] = []
    following = threading.Thread(target=lambda: asyncio.run(follow_task(gateway.url, flow_of("t", "r"), seen)))
    following.start()
    wait_until(lambda: "TEXT_MESSAGE_CONTENT" in {event["type"] for _, event in reader.events}, 120, node.logs)

    wait_until(lambda: bool(text_of_task(seen)), 120, node.logs)
    gateway.kill()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    gateway.start()
    node.worker("two")
    reading.join(200)
    following.join(200)

    assert text_of_task(seen) == whole_answer(2)
    events = [event for _, event in reader.events]
    for event in events:
        TypeAdapter(Event).validate_python(event)
    assert list(messages_of(events).values()) == [whole_answer(2)]
    counts = Counter(event["type"] for event in events)
    assert (counts["RUN_STARTED"], counts["RUN_FINISHED"], counts["TEXT_MESSAGE_START"]) == (1, 1, 2)
    assert counts["TEXT_MESSAGE_END"] == 2
    assert len({entry_id for entry_id, _ in reader.events}) == len(events)
