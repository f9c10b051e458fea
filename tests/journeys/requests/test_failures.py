"""Requests where workers, requesters and the broker stop, die, or are too late."""

from __future__ import annotations

import pytest

from tests.journeys.requests.service import ask


@pytest.mark.long
def test_100_failures_and_100_timeouts_leave_nothing_pending(service, inside):
    service.worker("one", "--pool", "threads", "-c", "4")

    said = ask(
        service,
        """
from petiole.events.errors import RequestTimedOut
failures = [request("fail", responder="data_service", timeout=30) for _ in range(100)]
kinds = {each.get().error_type for each in failures}
after_failures = pending_requests()
bus.app.control.cancel_consumer("data_service")
time.sleep(0.5)
timeouts, overdue = [request("echo", responder="data_service", timeout=0.5) for _ in range(100)], 0
for each in timeouts:
    try:
        each.get()
    except RequestTimedOut:
        overdue += 1
print(json.dumps([sorted(kinds), after_failures, overdue, pending_requests()]))
""",
    )

    assert said == [["LookupError"], 0, 100, 0]
    assert inside.pending_requests() == 0
    assert inside.stored_replies() == 0


def test_a_stopped_worker_is_a_timeout_at_the_deadline_and_does_not_run_the_request_later(
    service, inside, client, eventually
):
    worker = service.worker("one")
    worker.terminate()
    worker.wait(timeout=20)

    said = ask(
        service,
        """
from celery.exceptions import TimeoutError
began = time.monotonic()
try:
    request("slow", responder="data_service", seconds=0, timeout=2).get()
except TimeoutError as error:
    print(json.dumps([time.monotonic() - began, str(error), pending_requests()]))
""",
    )
    service.worker("two")
    eventually(lambda: inside.is_idle("data_service"), 20, service.logs)

    took_s, error, left = said
    assert 1.7 < took_s < 15
    assert "agent 'data_service' sent no reply within 2.0 s" in error
    assert left == 0
    assert client.llen("slow_runs") == 0
    assert "replies_unmatched" not in inside.counts()


def test_an_answer_after_the_deadline_is_counted_and_told_and_the_next_request_is_unaffected(
    service, inside, eventually
):
    service.worker("one")

    said = ask(
        service,
        """
from petiole.events.errors import RequestTimedOut
request("echo", responder="data_service", value=1).get()
try:
    request("slow", responder="data_service", seconds=1.5, timeout=0.6).get()
    print("no timeout")
except RequestTimedOut:
    print(json.dumps(request("echo", responder="data_service", value="next").get().value))
""",
    )

    assert said == "next"
    eventually(lambda: inside.counts().get("replies_unmatched") == 1, 10, service.logs)
    late = inside.history("response.unmatched")
    assert [each["content"]["reason"] for each in late] == ["late"]


@pytest.mark.long
def test_a_request_that_kills_its_workers_is_answered_by_its_dead_letter(service, inside, client):
    service.environment["PETIOLE_MAX_DELIVERY_CRASHES"] = "2"
    # Its first death makes it suspect; the others count.
    workers = [service.worker(name) for name in ("one", "two", "three", "four")]

    said = ask(service, 'print(json.dumps(request("die", responder="data_service", timeout=40).get().error_type))')

    assert said == "DeliveryCrashed"
    assert client.get("deaths") == "3"
    assert sorted(worker.poll() is None for worker in workers) == [False, False, False, True]
    answers = [each for each in inside.history() if each["event_type"].startswith("response.")]
    assert [each["event_type"] for each in answers] == ["response.failed"]


def test_a_process_that_ends_lets_those_go_who_wait_in_it(service):
    service.worker("one")

    said = ask(
        service,
        """
import threading
def wait():
    began = time.monotonic()
    response = request("slow", responder="data_service", seconds=20, timeout=30).get()
    print(json.dumps([response.error_type, time.monotonic() - began < 15, pending_requests()]))
threading.Thread(target=wait).start()
time.sleep(1)
""",
    )

    assert said == ["requester_stopped", True, 0]


WAIT_UNTIL = """
import asyncio, threading
kinds = []
def wait():
    kinds.append(request("slow", responder="data_service", seconds=20, timeout=30).get().error_type)
async def wait_too():
    kinds.append((await request.aio("slow", responder="data_service", seconds=20, timeout=30)).error_type)
threads = [threading.Thread(target=wait), threading.Thread(target=lambda: asyncio.run(wait_too()))]
[each.start() for each in threads]
time.sleep(1)
began = time.monotonic()
{what_ends_it}
[each.join() for each in threads]
print(json.dumps([kinds, time.monotonic() - began < 10]))
"""


def test_who_waits_is_let_go_at_once_when_told_to_stop_and_where_the_system_is_shut_down(service):
    service.worker("one")

    stopped = ask(service, WAIT_UNTIL.format(what_ends_it="request.stop_waiting()"))
    shut_down = ask(service, WAIT_UNTIL.format(what_ends_it="shut_down(bus)"))

    assert stopped == [["requester_stopped", "requester_stopped"], True]
    assert shut_down == [["SystemStopping", "SystemStopping"], True]


def test_a_requester_that_dies_leaves_an_entry_that_expires(service, inside, eventually):
    service.worker("one")
    dying = service.start(
        "timeit",
        "-n",
        "1",
        "-r",
        "1",
        "-s",
        "from petiole.tasks import request",
        "request('slow', responder='data_service', seconds=1, timeout=3).get()",
    )
    eventually(lambda: inside.pending_requests() == 1, 10, service.logs)
    dying.kill()

    said = ask(service, 'print(json.dumps(request("echo", responder="data_service", value=1, timeout=20).get().value))')

    assert said == 1
    assert inside.endless_requests() == []
    eventually(lambda: inside.pending_requests() == 0, 10)


def test_a_broker_that_is_away_is_told_and_nothing_is_pending(service):
    service.environment["PETIOLE_BROKER_URL"] = "redis://127.0.0.1:1/0"

    said = service.run("""
from petiole.events.errors import BrokerUnavailable
from petiole.tasks import request
try:
    request("echo", responder="data_service", timeout=5)
except BrokerUnavailable:
    print("told")
""")

    assert said.strip() == "told"
