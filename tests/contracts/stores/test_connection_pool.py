"""The pool of connections to the state store, on a real server."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from petiole.tasks.stores.connection_pool import NoFreeConnection, StorePool


@pytest.fixture
def pool(clean_broker_url: str) -> Iterator[StorePool]:
    pool = StorePool.from_url(clean_broker_url, max_connections=1, timeout=20)
    yield pool
    pool.disconnect()


def test_a_thread_that_waits_gets_the_connection_that_another_returns(pool):
    connection, taken = pool.get_connection(), []
    waiting = threading.Thread(target=lambda: taken.append(pool.get_connection()))
    waiting.start()

    pool.release(connection)
    waiting.join(15)

    assert taken == [connection]


def test_threads_share_one_connection_without_a_lost_turn(pool, clean_broker_url):
    def count() -> None:
        for _ in range(300):
            connection = pool.get_connection()
            connection.send_command("INCR", "turns")
            connection.read_response()
            pool.release(connection)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)

    assert Redis.from_url(clean_broker_url).get("turns") == b"2400"


def test_who_waits_too_long_is_told_that_all_connections_were_in_use(clean_broker_url):
    pool = StorePool.from_url(clean_broker_url, max_connections=1, timeout=0.1)
    pool.get_connection()

    with pytest.raises(NoFreeConnection, match=r"all 1 connections of this process were in use for 0\.1 s"):
        pool.get_connection()


def _client_id(pool: StorePool) -> int:
    connection = pool.get_connection()
    connection.send_command("CLIENT", "ID")
    number = int(connection.read_response())
    pool.release(connection)
    return number


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(pool):
    mine = _client_id(pool)
    fork = multiprocessing.get_context("fork")
    theirs = fork.Queue()
    child = fork.Process(target=lambda: theirs.put([_client_id(pool), _client_id(pool)]))
    child.start()
    first, second = theirs.get(timeout=20)
    child.join(20)

    assert first == second != mine
    assert _client_id(pool) == mine


def test_a_connection_that_the_server_has_closed_is_replaced(pool, clean_broker_url):
    first = _client_id(pool)
    connection = pool.get_connection()
    connection.disconnect()
    pool.release(connection)

    second = _client_id(pool)
    with Redis.from_url(clean_broker_url) as admin:
        admin.client_kill_filter(_id=str(second))
    pool.disconnect()

    assert len({first, second, _client_id(pool)}) == 3
