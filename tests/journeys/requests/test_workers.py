"""Requests over real workers: each gets its own answer, however many are asked at once."""

from __future__ import annotations

import pytest

from tests.journeys.requests.service import ask


def test_100_requests_answered_in_reverse_order_get_their_own_answers(service, inside):
    service.worker("one", "--pool", "threads", "-c", "100", "--prefetch-multiplier", "1")

    said = ask(
        service,
        """
pending = [request("nth", responder="data_service", timeout=50, number=n, of=100) for n in range(100)]
values = [each.get().value for each in pending]
after_100 = pending_requests()
print(json.dumps([values == [n * n for n in range(100)], after_100]))
""",
    )

    assert said == [True, 0]
    assert inside.pending_requests() == 0
    assert "replies_unmatched" not in inside.counts()


def test_failures_are_told_at_once_with_type_and_message(service):
    service.worker("one")

    said = ask(
        service,
        """
told = []
request("echo", responder="data_service").get()
for what, responder in (("fail", "data_service"), ("nothing", "data_service"), ("echo", "nobody")):
    began = time.monotonic()
    response = request(what, responder=responder, timeout=30).get()
    told.append([response.error_type, response.error, time.monotonic() - began < 15])
print(json.dumps(told))
""",
    )

    assert said[0] == ["LookupError", "no such user", True]
    assert [(kind, in_time) for kind, _, in_time in said[1:]] == [
        ("handler_not_found", True),
        ("responder_not_found", True),
    ]


def test_a_loop_asks_200_at_once_over_one_connection_and_without_a_thread_for_each(service):
    service.worker("one", "--pool", "threads", "-c", "4")

    said = ask(
        service,
        """
import asyncio, threading
async def ask_all():
    many = [request.aio("echo", responder="data_service", value=n, timeout=50) for n in range(200)]
    tasks = [asyncio.ensure_future(each) for each in many]
    threads = 0
    while not all(each.done() for each in tasks):
        threads = max(threads, threading.active_count())
        await asyncio.sleep(0.005)
    return [each.result().value for each in tasks] == list(range(200)), threads
print(json.dumps([*asyncio.run(ask_all()), pending_requests()]))
""",
    )

    right, threads, left = said
    assert (right, left) == (True, 0)
    assert threads <= 1 + 4


def test_a_second_request_under_an_id_that_is_on_its_way_is_refused_and_the_first_is_answered(service):
    service.worker("one")

    said = ask(
        service,
        """
from petiole.events import RequestEvent
from petiole.events.catalog.request import RequestContent
from petiole.events.errors import UsageError
content = RequestContent(request_type="slow", requester="web", responder="data_service", parameters={"seconds": 1})
first, refused = request(RequestEvent(content=content), timeout=30), []
for event in (RequestEvent(content=content), first.request):
    try:
        request(event, timeout=30)
    except UsageError as error:
        refused.append(content.request_id in str(error) or first.request.event_id in str(error))
pending = pending_requests()
print(json.dumps([refused, pending, first.get().value, pending_requests()]))
""",
    )

    assert said == [[True, True], 1, "slow", 0]


@pytest.mark.long
def test_a_request_is_answered_over_two_workers_once(service, inside):
    for name in ("one", "two"):
        service.worker(name)

    said = ask(
        service,
        """
pending = [request("echo", responder="data_service", value=n, timeout=30) for n in range(50)]
print(json.dumps([each.get().value for each in pending]))
""",
    )

    assert said == list(range(50))
    answers = [each for each in inside.history() if each["event_type"].startswith("response.")]
    assert len({each["content"]["request_id"] for each in answers}) == len(answers) == 50
