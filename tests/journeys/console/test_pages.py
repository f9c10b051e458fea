"""The console without JavaScript: each page shows what happened, and its buttons do what the command line does."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.catalog.message import MessageEvent
from petiole.events.catalog.tools import ApprovalRequest, ApprovalRequestedEvent
from petiole.events.errors import Permanent
from petiole.events.subscriptions import Subscription
from petiole.tasks import Context, RateLimit
from petiole.tasks.resilience.circuit_breaker import CircuitCall
from petiole.tasks.settings import Settings
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.tasks.testing import EventTestHarness
from petiole.workers.console import board, create_console, letter_index
from petiole.workers.tools import approvals
from tests.journeys.console.conftest import LOCAL, Browser, find
from tests.journeys.dead_letters.shop import a_letter
from tests.support.apps import a_bus
from tests.support.browser import serving
from tests.support.inside import Inside


def a_message(text: str = "Hello", stream_id: str = "s-1") -> TextMessageEvent:
    return TextMessageEvent(stream_id=stream_id, content=TextContent(text=text))


@pytest.fixture
def breaking(harness: EventTestHarness) -> list[str]:
    """Subscribe an agent that handles no message with the word `bad`; returns what it handled."""
    handled: list[str] = []

    def handle(event: Event) -> None:
        assert isinstance(event, TextMessageEvent)
        if "bad" in event.content.text:
            raise Permanent("this message is bad")
        handled.append(event.content.text)

    harness.subscribe("input.*", handle, agent="careful")
    return handled


def a_failure(harness: EventTestHarness, count: int = 1) -> list[str]:
    """Publish messages that fail, and return the ids of their letters, oldest first."""
    for number in range(count):
        harness.publish(a_message(f"bad {number}"))
    harness.bus.wait()
    return [letter.id for letter in harness.dead_letters()]


def actions(harness: EventTestHarness) -> list[dict[str, Any]]:
    found = [each for each in harness.published_events() if each.event_type == "operator.action.recorded"]
    return [each.model_dump(mode="json")["content"] for each in found]


def links(page: str, start: str) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'href="([^"]+)"', page) if each.startswith(start)]


def test_live_shows_agents_with_their_state_and_the_last_events_without_contents(harness, breaking, browser):
    harness.publish(a_message("a secret"))
    harness.bus.wait()

    page = browser.see("/")

    assert "careful" in page
    assert "input.message.received" in page
    assert "a secret" not in page


def test_live_draws_who_hears_whom(harness, breaking, browser):
    harness.publish(a_message())
    harness.bus.wait()

    assert "users → careful" in browser.see("/")


def test_live_shows_what_the_calls_of_an_agent_have_used_of_each_of_its_budgets(harness, browser):
    def call(event: Event) -> None:
        for budget in (RateLimit("llm.main", requests=500, tokens=8_000), RateLimit("search", requests=9)):
            with budget.reserve(tokens=1_200):
                pass
        budget.pause(60)

    def idle(event: Event) -> None:
        pass

    harness.subscribe("input.*", call, agent="caller")
    harness.subscribe("input.*", idle, agent="idler")
    harness.publish(a_message())
    harness.bus.wait()

    rows = {name: find(rf"<tr[^>]*>(<td>{name}.*?)</tr>", browser.see("/")) for name in ("caller", "idler")}

    assert "llm.main: 1 of 500 requests, 1,200 of 8,000 tokens<br>search: 1 of 9 requests, paused" in rows["caller"]
    assert "requests" not in rows["idler"]


def test_live_counts_failed_attempts_as_errors_and_other_outcomes_not(harness, breaking, browser, monkeypatch):
    monkeypatch.setattr(board, "MIN_INTERVAL_S", 0)
    harness.publish(a_message())
    harness.bus.wait()
    browser.see("/")
    Inside(harness).count_deliveries("careful.handle", handled=5, duplicate=7, deferred=11, retried=2, dead_lettered=1)

    assert find(r"<td>careful</td>.*?<td class=\"n bad\">(\d+)</td>", browser.see("/")) == "3"


def test_an_agent_is_paused_and_resumed_and_both_are_recorded_with_who_and_why(harness, breaking, browser, monkeypatch):
    monkeypatch.setenv("PETIOLE_OPERATOR", "ada")
    harness.publish(a_message())
    harness.bus.wait()

    browser.press("/agent", name="careful", action="pause", reason="too eager")
    paused = Inside(harness).overrides()
    browser.press("/agent", name="careful", action="resume")

    assert paused == {"careful": "paused"}
    assert [(each["operator"], each["action"], each["target"], each["reason"]) for each in actions(harness)] == [
        ("ada", "agent.pause", "careful", "too eager"),
        ("ada", "agent.resume", "careful", ""),
    ]


def test_what_was_done_stays_done_and_is_recorded_while_a_subscriber_of_the_audit_is_full(
    clean_broker_url, inside, tmp_path
):
    full = Subscription(agent="watcher", function="hear", patterns=("operator.*",), capacity=1, overflow="reject")
    bus = a_bus(clean_broker_url, full, settings=Settings(home=tmp_path, broker_url=clean_broker_url))
    browser = Browser(create_console(bus, trusts_loopback=True), base_url="http://localhost", client=LOCAL)

    answers = [browser.press("/agent", name="watcher", action=action) for action in ("pause", "resume", "pause")]

    assert [each.status_code for each in answers] == [200] * 3
    assert inside.overrides() == {"watcher": "paused"}
    recorded = inside.history("operator.action.recorded")
    assert [each["content"]["action"] for each in recorded] == ["agent.pause", "agent.resume", "agent.pause"]


@pytest.mark.parametrize(
    ("address", "fields", "action"),
    [
        ("/agent", {"name": "nobody", "action": "pause"}, "agent.pause"),
        ("/circuit", {"name": "nothing", "state": "open"}, "circuit.open"),
        ("/replay", {"id": "none"}, "dead_letters.replayed"),
    ],
)
def test_what_was_refused_is_recorded_as_refused(harness, browser, address, fields, action):
    assert browser.press(address, **fields).status_code == 400

    (recorded,) = actions(harness)
    assert (recorded["action"], recorded["outcome"], bool(recorded["error"])) == (action, "refused", True)


def test_a_breaker_is_opened_and_closed_by_hand_and_both_are_recorded(harness, browser):
    thresholds = CircuitThresholds(3, timedelta(seconds=9), timedelta(seconds=9))
    with CircuitCall(harness.bus, "llm.parrot", thresholds):
        pass

    browser.press("/circuit", name="llm.parrot", state="open", reason="its bill")
    opened = [each.state for each in Inside(harness).circuits().values()]
    browser.press("/circuit", name="llm.parrot", state="closed")

    assert opened == ["open"]
    assert [each.state for each in Inside(harness).circuits().values()] == ["closed"]
    assert [each["action"] for each in actions(harness)] == ["circuit.open", "circuit.closed"]


def test_a_conversation_hides_contents_until_they_are_asked_for_and_that_is_recorded(harness, breaking, browser):
    harness.publish(a_message("a secret"))
    harness.bus.wait()

    page = browser.see("/conversation?id=s-1")
    shown = browser.press("/conversation?id=s-1", "/conversation?id=s-1", reason="a complaint").text

    assert "careful.handle" in page
    assert "a secret" not in page
    assert "a secret" in shown
    (action,) = actions(harness)
    assert (action["action"], action["target"], action["reason"]) == ("contents.shown", "s-1", "a complaint")


def test_a_failed_delivery_stands_in_the_waterfall_with_its_error(harness, breaking, browser):
    a_failure(harness)

    page = browser.see("/conversation?id=s-1")

    assert "dead lettered" in page
    assert "Permanent" in page


def test_the_message_of_an_error_is_hidden_until_contents_are_shown_because_it_may_quote_them(harness, browser):
    def handle(event: Event) -> None:
        int(event.content.text)  # type: ignore[attr-defined]  # the error quotes the text

    harness.subscribe("input.*", handle, agent="counter")
    harness.publish(a_message("my secret"))
    harness.bus.wait()
    with (
        pytest.raises(ValueError, match="secret"),
        CircuitCall(harness.bus, "stock", CircuitThresholds(1, timedelta(seconds=9), timedelta(seconds=9))),
    ):
        raise ValueError("my secret")
    (letter,) = harness.dead_letters()
    pages = ["/", "/failures", links(browser.see("/failures"), "/letters")[0], f"/letter?id={letter.id}",
             "/conversation?id=s-1"]  # fmt: skip

    hidden = {page: browser.see(page) for page in pages}
    shown = [browser.press(page, page).text for page in pages[3:]]

    assert [page for page, text in hidden.items() if "my secret" in text] == []
    assert [page for page, text in hidden.items() if "ValueError" not in text] == []
    assert all("my secret" in text for text in shown)
    assert [each["action"] for each in actions(harness)] == ["contents.shown"] * 2


def a_flow_with_an_answer(harness: EventTestHarness) -> str:
    """Have a message answered, and return the address of the page from the message on."""

    def repeat(event: Event) -> Event:
        assert isinstance(event, TextMessageEvent)
        parameters = {"parameters": {"text": f"again: {event.content.text}"}}
        return event.caused(MessageEvent, event_type="message.echo", content=parameters)

    harness.subscribe("input.*", repeat, agent="parrot")
    message = a_message("a secret")
    harness.publish(message)
    harness.bus.wait()
    return f"/point?id={message.correlation_id}&event={message.event_id}"


def echoes(harness: EventTestHarness) -> list[tuple[str, str]]:
    found = [each for each in harness.published_events() if isinstance(each, MessageEvent)]
    return [(each.stream_id, str(each.content.parameters["text"])) for each in found]


def test_a_conversation_is_replayed_from_an_event_to_one_subscription_once_however_often_it_is_sent(harness, browser):
    point = a_flow_with_an_answer(harness)
    page = browser.see(point)
    assert "a secret" not in page
    fields = {"subscription": "parrot.repeat", "replay_id": find(r'name="replay_id" value="(\w+)"', page)}

    done = browser.press(point.replace("/point", "/point/replay"), point, **fields)
    browser.press(point.replace("/point", "/point/replay"), point, **fields)
    harness.bus.wait()

    assert "1 deliveries were sent to parrot.repeat" in done.text
    assert echoes(harness) == [("s-1", "again: a secret")] * 2
    browser.press(point.replace("/point", "/point/replay"), point, subscription="nobody.repeat")
    assert [(each["action"], each["outcome"]) for each in actions(harness)] == [
        ("history.replayed", "done"),
        ("history.replayed", "done"),
        ("history.replayed", "refused"),
    ]


def test_a_conversation_is_forked_with_another_content_and_the_old_one_stays(harness, browser):
    point = a_flow_with_an_answer(harness)
    shown = browser.press(point, point).text
    content = json.loads(find(r"<textarea[^>]*>(.*?)</textarea>", shown))

    refused = browser.press(point.replace("/point", "/point/fork"), point, content='{"text": 1}')
    forked = browser.press(
        point.replace("/point", "/point/fork"), point, content=json.dumps(content | {"text": "another way"})
    )
    harness.bus.wait()

    assert content["text"] == "a secret"
    assert (refused.status_code, "text" in refused.text) == (400, True)
    (_, original), (stream, copy) = echoes(harness)
    assert (original, copy) == ("again: a secret", "again: another way")
    assert stream.startswith("fork-")
    assert stream in forked.text
    assert [(each["action"], each["outcome"]) for each in actions(harness)] == [
        ("contents.shown", "done"),
        ("event.forked", "refused"),
        ("event.forked", "done"),
    ]


def test_the_text_of_answers_is_sent_to_who_had_the_contents_shown_and_to_nobody_else(harness, browser):
    async def answer(_: Event, context: Context) -> None:
        async with context.stream_response() as stream:
            stream.write("half an answer")

    harness.subscribe("input.*", answer, agent="writer")
    harness.publish(a_message())
    harness.bus.wait()
    assert browser.get("/answers?stream=s-1").status_code == 403
    application = create_console(harness.bus, trusts_loopback=True)
    with serving(application) as address, httpx2.Client(base_url=address, timeout=30) as visitor:
        token = find(r'name="form_token" value="([^"]+)"', visitor.get("/conversation?id=s-1").text)
        visitor.post("/conversation?id=s-1", data={"form_token": token})

        with visitor.stream("GET", "/answers?stream=s-1") as chunks:
            assert next(line for line in chunks.iter_lines() if "half an answer" in line)


def test_letters_stand_in_groups_and_a_group_is_replayed_behind_a_canary(harness, breaking, browser, eventually):
    ids = a_failure(harness, 3)
    (group,) = links(browser.see("/failures"), "/letters")
    assert [link.partition("id=")[2] for link in links(browser.see(group), "/letter?")] == ids[::-1]

    answer = browser.press("/replay", group, agent="careful", cause="permanent", canary="1", rate="50", **a_key(group))

    eventually(lambda: "Stopped: of 1 canaries" in browser.see(str(answer.url)), 20)
    assert "2 letters were not sent" in browser.see(str(answer.url))


def test_a_group_that_is_not_read_whole_says_so_and_is_not_replayed(harness, breaking, browser, monkeypatch):
    a_failure(harness)
    (group,) = links(browser.see("/failures"), "/letters")
    Inside(harness).import_letters(a_letter(f"letter-{number}") for number in range(2))
    monkeypatch.setattr(letter_index, "READ_S", -1)
    monkeypatch.setattr(letter_index, "MIN_INTERVAL_S", 0)
    browser = Browser(create_console(harness.bus, trusts_loopback=True), base_url="http://localhost", client=LOCAL)

    page = browser.see(group)
    answer = browser.press("/replay", "/failures", agent="careful", cause="permanent", **a_key(group))

    assert "3 letters are still to be read" in page
    assert (answer.status_code, "still to be read" in answer.text) == (400, True)


def test_a_replay_in_which_every_letter_is_refused_says_that_none_was_sent(harness, browser, eventually):
    Inside(harness).keep_dead_letter(a_letter(subscription="gone.away"))
    (group,) = links(browser.see("/failures"), "/letters")

    answer = browser.press("/replay", group, agent="gone", cause="failed", canary="1", **a_key(group))

    eventually(lambda: "No letter was sent: each was refused." in browser.see(str(answer.url)), 20)
    assert "Every letter has its outcome" not in browser.see(str(answer.url))


def a_key(group: str) -> dict[str, str]:
    return {"fingerprint": find(r"fingerprint=(\w+)", group)}


def test_a_letter_is_edited_with_validation_and_its_replay_is_handled(harness, breaking, browser, eventually):
    (letter_id,) = a_failure(harness)
    letter = f"/letter?id={letter_id}"
    assert "bad 0" not in browser.see(letter)
    shown = browser.press(letter, letter).text
    event = json.loads(find(r"<textarea[^>]*>(.*?)</textarea>", shown))

    broken = browser.press(f"/letter/edit?id={letter_id}", letter, event=json.dumps(event | {"content": {}}))
    event["content"]["text"] = "good"
    edited = browser.press(f"/letter/edit?id={letter_id}", letter, event=json.dumps(event))
    new_id = str(edited.url).partition("id=")[2]
    answer = browser.press("/replay", f"/letter?id={new_id}", id=new_id)

    assert broken.status_code == 400
    assert "content" in broken.text
    eventually(lambda: "Every letter has its outcome" in browser.see(str(answer.url)), 20)
    assert breaking == ["good"]
    assert {each["action"] for each in actions(harness)} >= {"dead_letter.edited", "dead_letters.replayed"}


def test_an_approval_shows_the_exact_arguments_and_tells_who_was_first(harness, browser):
    call = ApprovalRequest(
        approval_id="a-1",
        call_id="c-1",
        tool="order",
        arguments={"article": "<b>tea</b>", "amount": 3},
        fingerprint="f" * 64,
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )
    approvals.open_approval(ApprovalRequestedEvent(stream_id="s", content=call), bus=harness.bus)
    assert "&lt;b&gt;tea&lt;/b&gt;" in browser.see("/approvals")

    browser.press("/approval", "/approvals", id="a-1", decision="grant", reason="tea is fine")
    late = browser.press("/approval", "/approvals", id="a-1", decision="deny")

    assert approvals.get_approval("a-1", bus=harness.bus).state == "granted"
    assert late.status_code == 400
    assert "granted" in late.text
    assert [each["outcome"] for each in actions(harness)] == ["done", "refused"]


def test_why_names_who_would_get_an_event_and_why_not_the_others(harness, breaking, browser):
    harness.subscribe("output.*", print, agent="other")
    harness.publish(a_message())
    harness.bus.wait()

    page = browser.press("/why", "/why", event=a_message().model_dump_json()).text

    assert re.search(r"careful\.handle.*?yes", page, re.DOTALL)
    assert re.search(r"other\.print.*?none of its patterns matches", page, re.DOTALL)


def test_why_names_the_rule_that_decides_who_may_publish_the_event(harness, browser):
    def explain(event_type: str, **members: str) -> str:
        content = {"text": "Hello"} | ({"model": "m"} if event_type.startswith("llm") else {})
        event = {"event_type": event_type, "content": content} | members
        return html.unescape(browser.press("/why", "/why", event=json.dumps(event)).text)

    assert "'service' may publish it: no rule of the policy decides about it" in explain("input.message.received")
    assert "'service' may not publish it: the policy allows tools.approval.granted" in explain("llm.response.generated")
    assert "'evil' may not publish it" in explain("llm.response.generated", publisher="evil")
    assert "'llm' may publish it: the policy allows" in explain("llm.response.generated", publisher="llm")


def test_the_asyncapi_page_names_receivers_and_fields_and_gives_the_document(harness, breaking, browser):
    harness.publish(a_message())
    harness.bus.wait()

    page, document = browser.see("/asyncapi"), browser.get("/asyncapi.json").json()

    channel = find(r"<code>input\.message\.received</code>(.*?)</details>", page)
    assert "careful.handle" in channel
    assert ">text<" in channel
    assert "receive careful.handle input.message.received" in document["operations"]
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_only_the_demo_can_be_broken(browser):
    assert browser.get("/break").status_code == 404
    assert browser.press("/break", kind="worker").status_code == 400
    assert "Break it" not in browser.see("/")


def test_the_catalog_lists_types_with_their_fields(browser):
    assert "input.message.received" in browser.see("/catalog")
    assert ">text<" in browser.see("/catalog?topic=input.message.received")


@pytest.mark.parametrize(
    "address", ["/conversation?id=none", "/letter?id=none", "/replay?id=none", "/catalog?topic=no"]
)
def test_what_does_not_exist_is_told_as_a_page(browser, address):
    answer = browser.get(address)

    assert answer.status_code in {400, 404}
    assert "<h1>" in answer.text


def test_it_mounts_in_an_application_of_the_users_own(harness, breaking, open_browser):
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import Mount  # noqa: PLC0415

    own = Starlette(routes=[Mount("/desk", create_console(harness.bus, trusts_loopback=True))])
    browser = Browser(own, base_url="http://localhost", client=("127.0.0.1", 1))

    page = browser.see("/desk/")

    assert 'href="/desk/failures"' in page
    assert browser.get("/desk/static/console.css").status_code == 200
