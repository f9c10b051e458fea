"""AG-UI: the events of a run are in order, a client continues after any of them, and approvals interrupt a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent, Context
from petiole.tasks.testing import EventTestHarness
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.flows import FlowTranslator, TextAdded, TextEnded, TextRetracted, TextStarted
from tests.contracts.channels.answers import serving
from tests.support.ag_ui_client import run_client, skip_without_client
from tests.support.gateways import ordering_team, read_events


@pytest.fixture
def served_team(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    with (
        ordering_team(monkeypatch) as (team, ordered),
        serving(create_application(team.bus, trusts_loopback=True)) as url,
    ):
        yield url, ordered


def run(url: str, run_id: str, *, after: str = "", **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    messages = [{"id": "u-1", "role": "user", "content": [{"type": "text", "text": "Order tea, please"}]}]
    body = {"threadId": "a/thread", "runId": run_id, "messages": messages, "state": {"mine": 1}} | fields
    headers = {"Last-Event-ID": after} if after else {}
    with httpx2.stream("POST", f"{url}/ag-ui", json=body, headers=headers, timeout=30) as response:
        assert response.status_code == 200, response.read()
        events = list(read_events(response))
    for _, event in events:
        TypeAdapter(Event).validate_python(event)
    return events


def types(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [event["type"] for _, event in events if event["type"] != "STATE_DELTA"]


def test_an_approval_interrupts_a_run_and_the_next_run_goes_on_where_a_client_left_off(served_team):
    url, ordered = served_team

    asked = run(url, "r-1")

    assert types(asked) == [
        *("RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "RUN_FINISHED"),
    ]
    outcome = asked[-1][1]["outcome"]
    (interrupt,) = outcome["interrupts"]
    call_id = next(event["toolCallId"] for _, event in asked if event["type"] == "TOOL_CALL_START")
    assert (outcome["type"], interrupt["toolCallId"], ordered) == ("interrupt", call_id, [])

    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
    answered = run(url, "r-2", resume=resume)

    assert types(answered)[3:] == [
        *("TOOL_CALL_RESULT", "TEXT_MESSAGE_START"),
        *["TEXT_MESSAGE_CONTENT"] * types(answered).count("TEXT_MESSAGE_CONTENT"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    text = "".join(event["delta"] for _, event in answered if event["type"] == "TEXT_MESSAGE_CONTENT")
    assert (text, ordered) == ("Done: tea is ordered", ["tea"])
    _, state, messages = (event for _, event in answered[:3])
    assert state["snapshot"]["petiole"]["tools"][call_id]["status"] == "waiting for approval"
    assert [message["role"] for message in messages["messages"]] == ["user", "assistant", "assistant"]
    for number, (entry_id, _) in list(enumerate(asked[:-1], 1))[::3]:
        assert run(url, "r-1", after=entry_id) == asked[number:]
    for number, (entry_id, _) in list(enumerate(answered[:-1], 1))[::3]:
        assert run(url, "r-2", after=entry_id, resume=resume) == answered[number:]
    assert (run(url, "r-1"), ordered) == (asked, ["tea"])
    again = httpx2.get(f"{url}/ag-ui/threads/a%2Fthread/runs/r-1", headers={"Last-Event-ID": asked[4][0]}, timeout=30)
    assert list(read_events(again)) == asked[5:]


def test_the_official_client_verifies_a_run_is_interrupted_and_has_the_rest_of_the_answer(served_team):
    skip_without_client()
    url, ordered = served_team
    given = {
        "threadId": "t",
        "messages": [{"id": "u-1", "role": "user", "content": "Order tea"}],
        "runId": "r-1",
        "resumeRunId": "r-2",
    }

    for _ in "12":
        found = run_client("run", f"{url}/ag-ui", given=given)

        assert (found["outcomes"], ordered) == (["interrupt", "success"], ["tea"])
        assert [(each["role"], each.get("content")) for each in found["messages"]] == [
            ("user", "Order tea"),
            ("assistant", "I order tea. "),
            ("assistant", None),
            ("tool", "tea is ordered"),
            ("assistant", "Done: tea is ordered"),
        ]
        ((tool,),) = (found["state"]["petiole"]["tools"].values(),)
        assert (tool["tool"], tool["status"]) == ("order", "completed")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": []}, "messages"),
        (
            {
                "messages": [
                    {
                        "id": "u",
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "value": "http://x"}}],
                    }
                ]
            },
            "image",
        ),
        ({"tools": [{"name": "t", "description": "d", "parameters": {}}]}, "front-end tools"),
        ({"threadId": ""}, "threadId"),
        ({"runId": 7}, "runId"),
        ({"resume": [{"interruptId": "none", "status": "resolved"}]}, "none"),
    ],
)
def test_what_the_agents_cannot_do_is_refused_with_the_reason(served_team, fields, reason):
    body = {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "x"}]} | fields

    answer = httpx2.post(f"{served_team[0]}/ag-ui", json=body)

    assert answer.status_code == 400
    assert reason in answer.json()["detail"]


def test_an_agent_of_ones_own_that_writes_its_answer_is_heard_while_it_writes_and_adds_files_and_data():
    own = Agent("own")
    parts: Any = ({"url": "https://example.com/b.pdf", "filename": "b.pdf"}, {"data": {"total": 42}})

    @own.on("input.message.received")
    async def answer(event: TextMessageEvent, context: Context) -> ResponseReadyEvent:
        async with context.stream_response() as stream:
            stream.write("I am ")
            stream.write("my own.")
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text=stream.text, parts=parts))

    with EventTestHarness([own]) as team, serving(create_application(team.bus, trusts_loopback=True)) as url:
        events = run(url, "r-1")

    assert types(events)[3:] == [
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("ACTIVITY_SNAPSHOT", "RUN_FINISHED"),
    ]
    assert [event["content"] for _, event in events if event["type"] == "ACTIVITY_SNAPSHOT"] == [{"parts": list(parts)}]
    assert [event["delta"] for _, event in events if event["type"] == "TEXT_MESSAGE_CONTENT"] == ["I am my own."]


def test_another_attempt_continues_the_text_that_was_sent_or_takes_it_back():
    def steps(*texts: tuple[str, bool]) -> list[object]:
        translator = FlowTranslator()
        return [step for text, is_whole in texts for step in translator.replace_text("m", text, is_whole=is_whole)]

    assert steps(("ab", False), ("a", False), ("abc", True)) == [
        TextStarted("m"),
        TextAdded("m", "ab"),
        TextAdded("m", "c"),
        TextEnded("m", "abc"),
    ]
    assert steps(("ab", False), ("x", True)) == [
        *(TextStarted("m"), TextAdded("m", "ab"), TextRetracted("m")),
        *(TextStarted("m-whole"), TextAdded("m-whole", "x"), TextEnded("m-whole", "x")),
    ]
    assert steps(("", True), ("whole", True)) == [TextStarted("m"), TextAdded("m", "whole"), TextEnded("m", "whole")]
