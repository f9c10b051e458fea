"""What belongs to one name is out of reach of every other name, whatever separators a name contains."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis

from petiole.events.catalog.memory import MemoryItem
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.tasks.stores.rate_limits import Quota, RateLimitUsage
from petiole.tasks.stores.requests import Reply, ReplyRegistration
from petiole.workers.state import TeamState, open_team_state
from tests.support.names import SUFFIXES

A_MINUTE = timedelta(minutes=1)

of_names = pytest.mark.parametrize("names", [("vic", f"vic{suffix}") for suffix in SUFFIXES], ids=repr)


@pytest.fixture
def team(client: redis.Redis) -> TeamState:
    return open_team_state(client, Settings())


@of_names
def test_a_response_is_streamed_and_an_abandoned_one_found_beside_another_name(stores: Stores, names):
    for name in names:
        assert stores.response_streams.begin(name, "a", correlation_id="f", token=name) == ("open", "1")
        stores.response_streams.write(name, "a", token=name, text=name)
    for name in names:
        stores.response_streams.mark_lost(name)
        stores.response_streams.write(name, "a", token=name, end="finished")

    for name in names:
        chunks = stores.response_streams.read(name, after=0)
        assert [(chunk.kind, chunk.text) for chunk in chunks] == [("started", ""), ("delta", name), ("finished", "")]


@of_names
def test_two_responses_with_such_ids_are_separate_in_one_stream(stores: Stores, names):
    for name in names:
        stores.response_streams.begin("s", name, correlation_id="f", token=name)

    ends = [stores.response_streams.write("s", name, token=name, end="finished") for name in names]

    assert ends == ["finished", "finished"]
    assert stores.response_streams.bounds("s", names[0]) != stores.response_streams.bounds("s", names[1])


@of_names
def test_a_session_is_remembered_beside_another_name(stores: Stores, names):
    for name in names:
        stores.sessions.record_event(name, event=f'"{len(name)}"')

    assert [stores.sessions.events(name) for name in names] == [[f'"{len(name)}"'] for name in names]
    assert sorted(stores.sessions.list_open()) == sorted(names)


@of_names
def test_a_request_is_answered_beside_another_name(stores: Stores, names):
    for name in names:
        registration = ReplyRegistration("ask", name, "users", name, 30.0, reply_to=stores.requests.reply_list(name))
        assert stores.requests.register(registration)

    for name in names:
        assert stores.requests.respond(Reply(name, "users", f"e {name}"), f"{len(name)}") is None

    assert [stores.requests.take(name, 0) for name in names] == [f"{len(name)}" for name in names]


@of_names
def test_a_circuit_and_a_rate_limit_count_one_name(stores: Stores, names):
    limits = CircuitThresholds(failures=1, reset_timeout=A_MINUTE, lease=A_MINUTE, rate=0.9, window=A_MINUTE)
    quota = Quota(requests=None, tokens=100, window=A_MINUTE, lease=A_MINUTE)
    for name in names:
        epoch = stores.circuits.request_permit(name, limits).epoch or 0
        stores.circuits.record_outcome(name, limits, epoch, "failed" if name == names[0] else "succeeded")
        assert stores.rate_limits.reserve(name, "call", 60, quota) is None

    assert {circuit.name: circuit.state for circuit in stores.circuits.all()} == {names[0]: "open", names[1]: "closed"}
    assert [stores.rate_limits.usage(name) for name in names] == [RateLimitUsage(1, 60)] * 2


@of_names
def test_memories_facts_and_messages_belong_to_one_name(team: TeamState, names):
    for name in names:
        memory = MemoryItem(role="user", text=name or "-", said_at=datetime(2026, 1, 1, tzinfo=UTC))
        team.memories.keep(name, "one", memory)
        team.outbound_messages.append(name, "m-1", f"to {len(name)}")

    assert [[each.text for each in team.memories.read(name)] for name in names] == [[name] for name in names]
    messages = [team.outbound_messages.take(name, 0) for name in names]
    assert [message and message.text for message in messages] == [f"to {len(name)}" for name in names]


@of_names
def test_an_operation_is_done_under_one_name(stores: Stores, names):
    for name in names:
        begun = stores.idempotency_records.begin(name, token="t", owner="", limit=A_MINUTE, repeats_unfinished=False)
        assert begun.state == "started"
        stores.idempotency_records.finish(name, f'"{len(name)}"')
