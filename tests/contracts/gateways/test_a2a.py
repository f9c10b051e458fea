"""A2A, with the client of the official package: a message is a task that any server knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from a2a.client import Client, create_client
from a2a.helpers import new_data_part, new_text_part
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Role,
    SendMessageRequest,
    StreamResponse,
    TaskState,
)
from a2a.utils.errors import A2AError

from petiole.workers.gateways.application import create_application
from tests.contracts.channels.answers import serving
from tests.support.gateways import ordering_team, text_of_task


@pytest.fixture
def served_team(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    with (
        ordering_team(monkeypatch) as (team, ordered),
        serving(create_application(team.bus, trusts_loopback=True)) as url,
    ):
        yield url, ordered


def a_request(message_id: str = "m-1", *, data: object = None, **fields: Any) -> SendMessageRequest:
    part = new_text_part("Order tea") if data is None else new_data_part(data)
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
        with pytest.raises(A2AError, match="approved"):
            await send(client, a_request("m-2", data={"yes": 1}, task_id=task_id))

        decided = await send(client, a_request("m-3", data={"approved": True}, task_id=task_id))

        assert decided[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
        assert (text_of_task(decided), ordered) == ("I order tea. |Done: tea is ordered", ["tea"])
        (again,) = await send(client, a_request(context_id="c"))
        assert (again.task.id, text_of_task([again]), ordered) == (task_id, text_of_task(decided), ["tea"])
        assert (await client.get_task(GetTaskRequest(id=task_id))).status.state == TaskState.TASK_STATE_COMPLETED
        listed = await client.list_tasks(ListTasksRequest(context_id="c"))
        assert [task.id for task in listed.tasks] == [task_id]

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

        cancelled = await client.cancel_task(CancelTaskRequest(id=task_id))

        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        with pytest.raises(A2AError, match="has ended"):
            await client.cancel_task(CancelTaskRequest(id=task_id))
        assert (await client.get_task(GetTaskRequest(id=task_id))).status.state == TaskState.TASK_STATE_CANCELED

    with_client(url, act)
    assert ordered == []
