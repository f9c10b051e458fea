"""A2A, with the client of the official package: a message is a task that any server knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
from a2a.client import Client, create_client
from a2a.helpers import new_data_part, new_text_part
from a2a.types import (
    AuthenticationInfo,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Message,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, Parse

from petiole.events import FormattedResponse, ResponseReadyEvent, TextContent, TextMessageEvent
from petiole.events.content import Value
from petiole.events.errors import ProviderRefused, UsageError
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.gateways.a2a_push import post_task
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.push_targets import resolve_target
from tests.contracts.channels.answers import Receiver, receiving, served, serving
from tests.support.gateways import ordering_team, text_of_task
from tests.support.polling import wait_until


@pytest.fixture
def served_team(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    with (
        ordering_team(monkeypatch) as (team, ordered),
        serving(create_application(team.bus, trusts_loopback=True)) as url,
    ):
        yield url, ordered


def a_request(
    message_id: str = "m-1", *, data: object = None, text: str = "Order tea", **fields: Any
) -> SendMessageRequest:
    part = new_text_part(text) if data is None else new_data_part(data)
    message = Message(message_id=message_id, role=Role.ROLE_USER, parts=[part], **fields)
    return SendMessageRequest(message=message)


def with_client(url: str, act: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        client = await create_client(url)
        try:
            await act(client)
        finally:
            await client.close()

    asyncio.run(run())


async def send(client: Client, request: SendMessageRequest) -> list[StreamResponse]:
    return [response async for response in client.send_message(request)]


def test_a_task_asks_for_approval_is_granted_and_answers_and_is_one_however_often_it_is_sent(served_team):
    url, ordered = served_team

    async def act(client: Client) -> None:
        asked = await send(client, a_request(context_id="c"))
        task_id = asked[0].task.id
        assert asked[-1].status_update.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert (text_of_task(asked), ordered) == ("I order tea. ", [])
        for wrong in (a_request("m-2", data={"yes": 1}, task_id=task_id), a_request(text="perhaps", task_id=task_id)):
            with pytest.raises(A2AError, match="approved"):
                await send(client, wrong)
        with pytest.raises(A2AError, match="contextId"):
            await send(client, a_request("m-2", data={"approved": True}, task_id=task_id, context_id="other"))

        decided = await send(client, a_request("m-3", data={"approved": True}, task_id=task_id))

        assert decided[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
        assert (text_of_task(decided), ordered) == ("I order tea. |Done: tea is ordered", ["tea"])
        (again,) = await send(client, a_request(context_id="c"))
        assert again.task.history[0].message_id == "m-1"
        assert (again.task.id, text_of_task([again]), ordered) == (task_id, text_of_task(decided), ["tea"])
        assert (await client.get_task(GetTaskRequest(id=task_id))).status.state == TaskState.TASK_STATE_COMPLETED
        listed = await client.list_tasks(ListTasksRequest(context_id="c"))
        assert [task.id for task in listed.tasks] == [task_id]

    with_client(url, act)


def test_a_message_in_the_flow_of_another_is_no_task_and_hides_none() -> None:
    clerk = Agent("clerk")

    @clerk.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text="Yes"))

    async def act(client: Client) -> None:
        (*_, last) = await send(client, a_request(context_id="c"))
        team.send_through(TextMessageEvent(stream_id="c", correlation_id="a-flow", content=TextContent(text="Hello")))

        listed = (await client.list_tasks(ListTasksRequest(context_id="c"))).tasks

        assert [task.id for task in listed] == [last.status_update.task_id]

    with EventTestHarness([clerk]) as team, serving(create_application(team.bus, trusts_loopback=True)) as url:
        with_client(url, act)


def test_files_and_data_of_an_answer_are_artifacts() -> None:
    clerk = Agent("clerk")
    file: dict[str, Value] = {"url": "https://example.com/b.pdf", "filename": "b.pdf", "media_type": "application/pdf"}

    @clerk.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        content = FormattedResponse(text="Your bill", parts=(file, {"data": {"total": 42}}))
        return event.caused(ResponseReadyEvent, content=content)

    async def act(client: Client) -> None:
        seen = await send(client, a_request())
        task = await client.get_task(GetTaskRequest(id=seen[0].task.id))

        streamed = [each.artifact_update.artifact for each in seen if each.HasField("artifact_update")]
        for artifacts in (streamed[-2:], list(task.artifacts)[:2]):
            (bill,), (total,) = [artifact.parts for artifact in artifacts]
            assert {"url": bill.url, "filename": bill.filename, "media_type": bill.media_type} == file
            assert MessageToDict(total.data) == {"total": 42}
        assert "Your bill" in text_of_task([StreamResponse(task=task)])

    with EventTestHarness([clerk]) as team, serving(create_application(team.bus, trusts_loopback=True)) as url:
        with_client(url, act)


def test_what_is_not_offered_is_refused_and_not_promised(served_team):
    async def act(client: Client) -> None:
        with pytest.raises(A2AError, match="no task 'none'"):
            await client.get_task(GetTaskRequest(id="none"))
        with pytest.raises(A2AError, match="text"):
            await send(client, a_request(data={"order": "tea"}))
        with pytest.raises(A2AError, match="contextId"):
            await client.list_tasks(ListTasksRequest())

    with_client(served_team[0], act)


def test_a_task_that_is_cancelled_ends_and_what_it_waited_for_is_not_done(served_team):
    url, ordered = served_team

    async def act(client: Client) -> None:
        asked = await send(client, a_request(context_id="c"))
        task_id = asked[0].task.id

        updates = client.subscribe(SubscribeToTaskRequest(id=task_id))
        assert (await anext(updates)).task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED

        cancelled = await client.cancel_task(CancelTaskRequest(id=task_id))

        assert [each async for each in updates][-1].status_update.status.state == TaskState.TASK_STATE_CANCELED
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        with pytest.raises(A2AError, match="has ended"):
            await client.cancel_task(CancelTaskRequest(id=task_id))
        assert (await client.get_task(GetTaskRequest(id=task_id))).status.state == TaskState.TASK_STATE_CANCELED

    with_client(url, act)
    assert ordered == []


def test_a_client_is_pushed_each_state_with_its_token_although_its_server_was_down(served_team, monkeypatch):
    url, _ = served_team
    monkeypatch.setenv("PETIOLE_PUSH_HOSTS", "127.0.0.1, localhost")

    with receiving() as receiver:
        receiver.answers = [(503, {}), (204, {})]
        config = TaskPushNotificationConfig(id="own", url=receiver.url, token="secret")
        config.authentication.CopyFrom(AuthenticationInfo(scheme="Bearer", credentials="key"))

        async def act(client: Client) -> None:
            request = a_request(context_id="c")
            request.configuration.task_push_notification_config.CopyFrom(config)
            task_id = (await send(client, request))[0].task.id
            wait_until(lambda: len(receiver.got) == 2, 60)
            of_task = ListTaskPushNotificationConfigsRequest(task_id=task_id)
            assert [each.url for each in (await client.list_task_push_notification_configs(of_task)).configs] == [
                receiver.url
            ]
            await send(client, a_request("m-2", task_id=task_id, text="Yes."))
            wait_until(lambda: pushed(receiver)[-1][0] == TaskState.TASK_STATE_COMPLETED, 60)

        with_client(url, act)

    states = pushed(receiver)
    assert states[0] == states[1] == (TaskState.TASK_STATE_INPUT_REQUIRED, "I order tea. ")
    assert states[-1] == (TaskState.TASK_STATE_COMPLETED, "I order tea. |Done: tea is ordered")
    headers = [headers for headers, _ in receiver.got]
    assert headers[0]["idempotency-key"] == headers[1]["idempotency-key"] != headers[2]["idempotency-key"]
    assert {(each["x-a2a-notification-token"], each["authorization"]) for each in headers} == {("secret", "Bearer key")}


def pushed(receiver: Receiver) -> list[tuple[int, str]]:
    posted = [Parse(body, StreamResponse()) for _, body in receiver.got]
    return [(each.task.status.state, text_of_task([each])) for each in posted]


def test_push_configurations_are_kept_replaced_and_deleted(served_team, monkeypatch):
    monkeypatch.setenv("PETIOLE_PUSH_HOSTS", "hooks.example.com")

    async def act(client: Client) -> None:
        task_id = (await send(client, a_request(context_id="c")))[0].task.id

        for url in ("https://hooks.example.com/1", "https://hooks.example.com/2"):
            config = TaskPushNotificationConfig(id="own", task_id=task_id, url=url)
            assert await client.create_task_push_notification_config(config) == config
        found = GetTaskPushNotificationConfigRequest(task_id=task_id, id="own")
        assert (await client.get_task_push_notification_config(found)).url == "https://hooks.example.com/2"
        for _ in "12":
            await client.delete_task_push_notification_config(
                DeleteTaskPushNotificationConfigRequest(task_id=task_id, id="own")
            )
        with pytest.raises(A2AError, match="no push notification configuration 'own'"):
            await client.get_task_push_notification_config(found)
        for number in range(10):
            config = TaskPushNotificationConfig(id=str(number), task_id=task_id, url="https://hooks.example.com/")
            await client.create_task_push_notification_config(config)
        with pytest.raises(A2AError, match="delete one"):
            await client.create_task_push_notification_config(
                TaskPushNotificationConfig(id="eleven", task_id=task_id, url="https://hooks.example.com/")
            )

    with_client(served_team[0], act)


@pytest.mark.parametrize(
    ("hosts", "url", "reason"),
    [
        ("hooks.example.com", "https://other.example.com/", "PETIOLE_PUSH_HOSTS"),
        ("*", "https://127.0.0.1/", "not public"),
        ("*", "https://[::ffff:10.0.0.1]/", "not public"),
        ("*", "https://169.254.169.254/latest", "not public"),
        ("*", "http://0/", "not public"),
        ("*", "http://93.184.215.14/", "http://"),
        ("93.184.215.14", "http://93.184.215.14/", "http://"),
        ("*", "ftp://93.184.215.14/", "https://"),
        ("*", "https://93.184.215.14@127.0.0.1/", "without a user"),
        ("*", "https://93.184.215.14:99999/", "malformed"),
        ("*", "https://93.184.215.14/\r\nX: y", "ASCII"),
    ],
)
def test_a_push_url_that_a_client_should_not_reach_is_refused(hosts, url, reason):
    with pytest.raises(UsageError, match=reason):
        asyncio.run(resolve_target(url, [hosts]))


def test_a_message_whose_push_configuration_is_refused_is_not_published(served_team, monkeypatch):
    async def act(client: Client) -> None:
        for hosts, config in (
            ("", TaskPushNotificationConfig(url="https://93.184.215.14/")),
            ("*", TaskPushNotificationConfig(url="https://127.0.0.1/")),
            ("*", TaskPushNotificationConfig(url="https://93.184.215.14/", token="a\r\nX-Admin: 1")),
        ):
            monkeypatch.setenv("PETIOLE_PUSH_HOSTS", hosts)
            request = a_request(context_id="c")
            request.configuration.task_push_notification_config.CopyFrom(config)
            with pytest.raises(A2AError):
                await send(client, request)
        assert not (await client.list_tasks(ListTasksRequest(context_id="c"))).tasks

    with_client(served_team[0], act)


def test_a_name_that_is_given_another_address_after_it_was_checked_is_not_posted_to(monkeypatch):
    monkeypatch.setenv("PETIOLE_PUSH_HOSTS", "*")
    addresses = iter(["93.184.215.14", "127.0.0.1"])

    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (next(addresses), 443))]

    async def act() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        target = await resolve_target("https://rebinding.example.com:8443/hook", ["*"])
        assert (target.address_url, target.hostname) == ("https://93.184.215.14:8443/hook", "rebinding.example.com")
        config = TaskPushNotificationConfig(url="https://rebinding.example.com/")
        with pytest.raises(ProviderRefused, match="not public"):
            await post_task(config, Task(), notification_id="1")

    asyncio.run(act())


def test_the_card_is_cached_and_promises_push_only_where_it_is_posted(served_team, monkeypatch):
    card = f"{served_team[0]}/.well-known/agent-card.json"
    plain = httpx2.get(card)
    monkeypatch.setenv("PETIOLE_PUSH_HOSTS", "*")
    offering = httpx2.get(card)

    assert [each.json()["capabilities"]["pushNotifications"] for each in (plain, offering)] == [False, True]
    assert plain.headers["cache-control"] == "max-age=60"
    assert plain.headers["etag"] != offering.headers["etag"]
    assert httpx2.get(card, headers={"If-None-Match": offering.headers["etag"]}).status_code == 304


def test_a_body_that_is_no_request_is_an_error_of_the_protocol(bus):
    bodies = ((b"{}", "text/plain"), (b"{", "application/json"))
    with served(bus) as server:
        answers = [
            httpx2.post(server.url + path, content=body, headers={"Content-Type": kind})
            for path in ("/a2a", "/a2a/")
            for body, kind in bodies
        ]

    assert [answer.json()["error"]["code"] for answer in answers] == [-32005, -32700] * 2
